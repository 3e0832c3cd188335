"""Files of weights: read without running anything that is in them, and torchvision's fetched once for all processes of a host."""

import fcntl
import hashlib
import re
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import torch
from torchvision.models import get_model_weights

from data.errors import InputError
from data.files import atomic_write
from data.progress import progress

TIMEOUT_SECONDS = 15.0
"""Without an answer, or without any data."""

CHUNK_BYTES = 2**20


def read_weights(path: Path) -> Any:
    """What torch.save wrote, onto the CPU. Tensors and plain values only: nothing in the file is executed.

    Raises InputError where the file is missing, cut, something else, or cannot be read without running code of it.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected one that torch.save wrote, or the folder of a run; check the path")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make torch's reader raise anything at all
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise InputError(
                f"{path}: holds Python objects ({found[1]}), which would be run as code to be read, expected tensors alone; where you "
                "trust the file, save its state dict anew: torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW_FILE)"
            ) from None
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        raise InputError(f"{path}: not readable as a file of torch.save ({reason}); check the file") from None


def fetch_imagenet(weights: str, encoder: str) -> Path:
    """The file of torchvision's weights `weights` (imagenet: IMAGENET1K_V1) of `encoder`, downloaded where torch hub's folder lacks it."""
    choices = {name: member for name, member in get_model_weights(encoder).__members__.items() if name != "DEFAULT"}
    name = "IMAGENET1K_V1" if weights.lower() == "imagenet" else weights.upper()
    if name not in choices:
        raise InputError(f"model.weights: {weights} found, torchvision's {encoder} has {', '.join(choices)}; choose one of these")
    return fetch(choices[name].url, Path(torch.hub.get_dir()) / "checkpoints")


def fetch(url: str, folder: Path) -> Path:
    """The file of `url` in `folder`, whose SHA-256 begins as its name says; downloaded, by one process at a time, where it is not there.

    Raises InputError where it cannot be had, or is another file than its name says.
    """
    path = folder / url.rpartition("/")[2]
    if not path.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / f".{path.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if path.is_file():  # another process was faster
                    return path
                _download(url, path)
        except (OSError, HTTPException) as error:
            raise InputError(
                f"{url}: cannot be downloaded ({error}); download it where that is possible and put it into {folder} as {path.name}"
            ) from None
        return path
    with path.open("rb") as file:
        _check_hash(hashlib.file_digest(file, "sha256").hexdigest(), path.name, where=path)
    return path


def _download(url: str, path: Path) -> None:
    digest = hashlib.sha256()
    with urlopen(url, timeout=TIMEOUT_SECONDS) as response:
        total = int(response.headers.get("Content-Length") or 0)
        with atomic_write(path) as file, progress(total=total, what=f"download {path.name}") as advance:
            while chunk := response.read(CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
                advance(len(chunk))
            _check_hash(digest.hexdigest(), path.name, where=url)


def _check_hash(digest: str, name: str, *, where: str | Path) -> None:
    """torchvision ends the names of its files with the first digits of their SHA-256."""
    expected = re.search(r"-([0-9a-f]{8,})\.[a-z]+$", name)
    if expected and not digest.startswith(expected[1]):
        raise InputError(f"{where}: a file cut short or another one found (SHA-256 {digest[:8]}..., expected {expected[1]}...); remove it")
