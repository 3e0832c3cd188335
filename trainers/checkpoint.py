"""Checkpoints: whole or not there, the newest few and the best one kept."""

import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from data.errors import InputError
from data.files import atomic_write, sync_folder

log = logging.getLogger(__name__)

BEST = "best.pt"


class Checkpoints:
    """The checkpoints of one run, in `folder`: step-00000100.pt, ... and best.pt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: dict[str, Any], step: int, *, keep: int, best: bool) -> Path:
        """Write `state` as the checkpoint of `step`, atomically, as the best one too if `best`; keep the newest `keep`."""
        path = self.path(step)
        with atomic_write(path) as file:
            torch.save(state, file)
        if best:
            self.keep_as_best(step)
        for old in self.steps()[:-keep]:
            self.path(old).unlink(missing_ok=True)
        return path

    def keep_as_best(self, step: int) -> None:
        """Give the checkpoint of `step` a second name, which outlives the first; copied where the file system has no links."""
        temporary = self.folder / f".{BEST}.{os.getpid()}.tmp"
        temporary.unlink(missing_ok=True)
        try:
            os.link(self.path(step), temporary)
        except OSError:
            shutil.copyfile(self.path(step), temporary)
        os.replace(temporary, self.folder / BEST)
        sync_folder(self.folder)

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, ascending."""
        if not self.folder.is_dir():
            return []
        matches = (re.fullmatch(r"step-(\d+)\.pt", path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def load_last(self) -> dict[str, Any] | None:
        """The newest checkpoint that can be read, or None where there is no file. One that is damaged is passed over with a warning.

        Raises InputError where there are files and none can be read.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return load_checkpoint(self.path(step))
            except InputError as error:
                log.warning("%s; trying the one before", error)
        if steps:
            raise InputError(f"{self.folder}: none of {len(steps)} checkpoints can be read; restore one or remove the folder")
        return None

    def discard_after(self, step: int) -> None:
        """Remove what a resumed run must not take for its own: damaged checkpoints of later steps, and unfinished files."""
        for later in self.steps():
            if later > step:
                self.path(later).unlink()
        for unfinished in self.folder.glob(".*.tmp"):
            unfinished.unlink()

    def load(self, which: str) -> dict[str, Any]:
        """The `best` or the `last` checkpoint. Raises InputError where there is none: the last is no stand-in for the best."""
        if which == "best" and (self.folder / BEST).is_file():
            return load_checkpoint(self.folder / BEST)
        if which == "best" and self.steps():
            raise InputError(
                f"{self.folder}: no {BEST} found, expected one evaluation of the run that scored all images of its splits; "
                "give checkpoint=last"
            )
        state = self.load_last()
        if state is None:
            raise InputError(f"{self.folder}: no checkpoint found, expected the run to have been trained; give the folder of a run")
        return state

    def path(self, step: int) -> Path:
        """Of the checkpoint of `step`."""
        return self.folder / f"step-{step:08d}.pt"


def weights_of(state: Mapping[str, Any], *, averaged: bool = True) -> dict[str, Any]:
    """The trainer's state dict of a checkpoint: its averaged weights where the run keeps some (`loop.ema`), or else those it trains."""
    weights: dict[str, Any] = state["ema"] if averaged and "ema" in state else state["model"]
    return weights


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. Tensors and plain values only: nothing in the file is executed.

    Raises InputError where the file is missing, cut or something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make torch's reader raise anything at all
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        raise InputError(f"{path}: not a readable checkpoint ({reason})") from None
    if not isinstance(state, dict) or not {"step", "model"} <= state.keys():
        raise InputError(f"{path}: no `step` and `model` found, expected a checkpoint of taxomix")
    return state
