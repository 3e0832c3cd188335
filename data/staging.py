"""What `prepare` has done of a split and not published yet: pieces of the index, notes on them, and the plan.

plan                 which version is being published, and which files at the target are ours
SPLIT-00000.arrow    rows of the index of one task
SPLIT-00000.note     written after them: what they were made from, bytes of the tar, warnings; without it the task is not done
SPLIT-00000.tar      the shard, until it is published
"""

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from data.files import write_text
from data.index import read_index, write_index


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What has been begun at the target of a split."""

    publishing: str | None = None
    """Fingerprint of the version whose shards are being moved: one that is no longer in the staging folder has been."""
    ours: frozenset[str] = frozenset()
    """Files at the target that `prepare` wrote, and so may replace and remove."""


@dataclass(frozen=True, kw_only=True)
class Note:
    """What is known of a task that is done."""

    fingerprint: str
    bytes: int
    """Of its tar."""
    uploaded: bool = False
    """Whether the tar was moved to the target at once."""
    warnings: Mapping[str, int] = field(default_factory=dict)


class Staging:
    """The staging folder of one split."""

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.split = folder, split

    def plan(self) -> Plan | None:
        """The plan of an earlier run; None where there is none that reads."""
        try:
            content = json.loads((self.folder / "plan").read_text())
            return Plan(publishing=content["publishing"], ours=frozenset(content["ours"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def write_plan(self, plan: Plan) -> None:
        write_text(self.folder / "plan", json.dumps({"publishing": plan.publishing, "ours": sorted(plan.ours)}))

    def note(self, number: int) -> Note | None:
        try:
            return Note(**json.loads(self._path(number, "note").read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def table(self, number: int) -> pa.Table:
        path = self._path(number, "arrow")
        with path.open("rb") as file:
            return read_index(file.fileno(), origin=str(path))

    def keep(self, number: int, table: pa.Table, note: Note) -> None:
        write_index(self._path(number, "arrow"), [table])
        write_text(self._path(number, "note"), json.dumps({**vars(note), "warnings": dict(note.warnings)}))

    def forget(self, number: int) -> None:
        """Before a task is done anew: the note of its older version would pass for one of the new."""
        for suffix in ("note", "tar"):
            self._path(number, suffix).unlink(missing_ok=True)

    def discard_if_empty(self) -> None:
        """Remove the folder where no task is done."""
        if not any(self.folder.glob("*.note")):
            self.remove()

    def remove(self) -> None:
        # The notes first: what a kill leaves of the folder must not pass for work that is done.
        with suppress(FileNotFoundError):
            for path in self.folder.glob("*.note"):
                path.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int, suffix: str) -> Path:
        return self.folder / f"{self.split}-{number:05d}.{suffix}"
