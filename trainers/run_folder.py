"""The folder of a run: what lies where, the config it was started with, and that one process at a time uses it.

config.yaml  weights.txt  checkpoints/  tensorboard/  metrics.jsonl  shares.json  goodput.json
evaluation.json  overlays/  confusion/, and of `taxomix evaluate` evaluation_images.jsonl  confusions.json
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from data.config import to_plain
from data.errors import InputError
from data.files import write_text
from trainers.checkpoint import Checkpoints
from trainers.config import FREE_TO_CHANGE, JobConfig

LOCK_WAIT_SECONDS = 20.0

LONGEST = 100
"""Letters of a value that are told of."""


class RunFolder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.checkpoints = Checkpoints(path / "checkpoints")
        self.tensorboard = path / "tensorboard"
        self.metrics = path / "metrics.jsonl"
        self.evaluation = path / "evaluation.json"
        self.shares = path / "shares.json"
        """What of each stream has been trained on."""
        self.goodput = path / "goodput.json"
        """What its time went into."""
        self.weights = path / "weights.txt"
        """What of `model.weights` was loaded."""
        self.overlays = path / "overlays"
        self.confusion = path / "confusion"
        self.failure = path / ".failure"
        """What a worker that must not be started again died of."""

    def start(self, job: JobConfig) -> None:
        """Save the config of a new run; of a run that is there, check that `job` continues it. Raises InputError if not."""
        plain = to_plain(job)
        if self.config.is_file():
            before = yaml.safe_load(self.config.read_text())
            changed = _first_difference(before, plain)
            if changed:
                key, old, new = changed
                raise InputError(
                    f"{key}: {new} found, but {self.path} was started with {old}; choose another run.name or remove that folder"
                )
            return
        write_text(self.config, yaml.safe_dump(plain, sort_keys=False))

    @contextmanager
    def lock(self, name: str = ".lock") -> Iterator[None]:
        """Hold the run for this process. The lock goes with the process, however it ends.

        The process that started the job holds `.lock`; the one that writes checkpoints `.writer`, since it may outlive the first.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / name).open("w") as file:
            deadline = time.monotonic() + LOCK_WAIT_SECONDS
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise InputError(
                            f"{self.path}: in use by another process, expected to be free; wait for it or choose another run.name"
                        ) from None
                    time.sleep(0.5)
            yield


def _first_difference(before: Any, now: Any, key: str = "") -> tuple[str, Any, Any] | None:
    if key in FREE_TO_CHANGE:
        return None
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted(before.keys() | now.keys()):
            found = _first_difference(before.get(name), now.get(name), f"{key}.{name}" if key else name)
            if found:
                return found
        return None
    return None if before == now else (key, _short(before), _short(now))


def _short(value: Any) -> Any:
    """What is told of a value: of a large one, such as the content of a file, that it is one."""
    return value if len(str(value)) <= LONGEST else f"{str(value)[:LONGEST]}..."
