"""Goodput: the shares of a run's wall time that go into training, and into what else.

Each process that trains the run (its main rank) notes a session, which is written with every checkpoint. So what a killed process did after
its last checkpoint, and what it takes to get back there, is time of restarting: nothing of it is left in the run.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from data.files import write_text

Activity = Literal["starting", "data", "evaluating", "checkpointing"]


@dataclass(kw_only=True)
class Session:
    """Of one process: seconds since the epoch of its begin and its last checkpoint, and the seconds between that were no training."""

    begin: float
    end: float
    starting: float = 0.0
    """Until the first step: opening the data, building the model, reading the checkpoint."""
    data: float = 0.0
    """Waiting for data."""
    evaluating: float = 0.0
    checkpointing: float = 0.0

    @property
    def training(self) -> float:
        return max(0.0, self.end - self.begin - self.starting - self.data - self.evaluating - self.checkpointing)


class Goodput:
    """Measures the session of this process from now on; `path` is the run's goodput.json, null where this rank writes none."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        now = time.time()
        self.session = Session(begin=now, end=now)
        self._begin = time.perf_counter()
        self._saved: tuple[Session, ...] = ()

    def resume(self, step: int) -> None:
        """Take up the sessions before this one; none where the run begins anew, at step 0."""
        self._saved = read_sessions(self.path) if self.path is not None and step else ()

    def started(self) -> None:
        """The first step is about to begin."""
        self.session.starting = time.perf_counter() - self._begin

    @contextmanager
    def doing(self, what: Activity) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        setattr(self.session, what, getattr(self.session, what) + time.perf_counter() - begin)

    def save(self) -> dict[str, float]:
        """Write what was done until now, with the checkpoint that was just written; gives the shares of the run."""
        self.session.end = self.session.begin + time.perf_counter() - self._begin
        sessions = (*self._saved, self.session)
        if self.path is not None:
            write_text(self.path, json.dumps({"version": 1, "sessions": [asdict(session) for session in sessions]}, indent=1) + "\n")
        return shares(sessions)


def read_sessions(path: Path) -> tuple[Session, ...]:
    """Those of a goodput.json; none where there is no such file, or one that cannot be read: it is no more than a measurement."""
    try:
        return tuple(Session(**entry) for entry in json.loads(path.read_text())["sessions"])
    except (OSError, ValueError, TypeError, KeyError):
        return ()


def shares(sessions: Sequence[Session]) -> dict[str, float]:
    """The parts of the time from the begin of the first session to the end of the last that went into training, data, evaluating,
    checkpointing, starting (of the first) and restarting (between sessions, and the start of later ones); and that time in `seconds`."""
    seconds = sessions[-1].end - sessions[0].begin
    gaps = sum(max(0.0, later.begin - before.end) for before, later in pairwise(sessions))
    parts = {
        "training": sum(session.training for session in sessions),
        "data": sum(session.data for session in sessions),
        "evaluating": sum(session.evaluating for session in sessions),
        "checkpointing": sum(session.checkpointing for session in sessions),
        "starting": sessions[0].starting,
        "restarting": gaps + sum(session.starting for session in sessions[1:]),
    }
    whole = max(seconds, 1e-9)
    return {**{name: part / whole for name, part in parts.items()}, "seconds": seconds}


def described(found: dict[str, float]) -> str:
    """As a line of the log."""
    minutes, seconds = divmod(round(found["seconds"]), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{name} {100 * part:.1f} %" for name, part in found.items() if name != "seconds"]
    return f"goodput: of {hours}:{minutes:02}:{seconds:02} " + ", ".join(parts)
