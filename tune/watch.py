"""Watching a search: a table on a terminal that changes as trials go on, plain lines elsewhere; and what is to be done as a trial ends."""

import json
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from data.files import write_text
from tune.folder import SearchFolder, TrialFolder, TrialRecord, best_first
from tune.space import shown

ROWS = 12
"""Of the table: the trials that run, then the best ones."""

SECONDS_BETWEEN_TABLES = 2.0


@dataclass(kw_only=True)
class Times:
    """Of one process of the command: seconds since the epoch in which it ran trials, so many at a time."""

    begin: float
    end: float
    places: int


def read_times(folder: Path) -> tuple[Times, ...]:
    path = folder / "times.json"
    return tuple(Times(**entry) for entry in json.loads(path.read_text())) if path.is_file() else ()


class TrialWatch:
    """Shows the trials of one folder, `total` of `steps` each, while it is open. All it knows it reads from there: Ray Tune
    saves the callback that it is given, and makes it anew where a search goes on."""

    def __init__(self, folder: Path, *, total: int, steps: int, keep: int, places: int) -> None:
        self.folder, self.total, self.steps, self.keep = folder, total, steps, keep
        self.before, now = read_times(folder), time.time()
        self.times = Times(begin=now, end=now, places=places)
        self.live: Live | None = None
        self._last = 0.0

    def __enter__(self) -> "TrialWatch":
        global _watch
        _watch = self
        if sys.stdout.isatty():
            self.live = Live(self.table(SearchFolder.records(self.folder)), console=Console(), refresh_per_second=2)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        global _watch
        _watch = None
        self._write_times()
        if self.live is not None:
            self.live.update(self.table(SearchFolder.records(self.folder)))
            self.live.stop()

    def _write_times(self) -> None:
        self.times.end = time.time()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "times.json", json.dumps([asdict(one) for one in (*self.before, self.times)]))

    def callback(self) -> Any:
        """Ray Tune's callback, which holds nothing."""
        return make_callback()

    def changed(self, trial: str, what: str) -> None:
        """Something happened to a trial: `report`, or how it ended."""
        record = TrialFolder(self.folder / trial).record()
        if record is not None and self.live is None and (what != "report" or record.state != "failed"):
            print(self.line(record, what), flush=True)
        if self.live is not None and (what != "report" or time.monotonic() > self._last + SECONDS_BETWEEN_TABLES):
            self._last = time.monotonic()
            self.live.update(self.table(SearchFolder.records(self.folder)))

    def ended(self, trial: str, error: str | None) -> None:
        """Note how a trial ended where it could not itself, and remove checkpoints that nobody needs."""
        folder = TrialFolder(self.folder / trial)
        if not folder.about.is_file():
            return
        reports = folder.read_reports()
        is_whole = bool(reports) and reports[-1]["step"] >= self.steps  # asha may stop a trial at its last step
        folder.end("failed" if error is not None else "complete" if is_whole else "stopped", error)
        records = SearchFolder.records(self.folder)
        kept = {record.id for record in best_first([one for one in records if one.state in ("complete", "stopped")])[: self.keep]}
        for record in records:
            if record.state != "running" and record.id not in kept:
                shutil.rmtree(TrialFolder(self.folder / record.id).run.checkpoints.folder, ignore_errors=True)
        self._write_times()
        now = folder.record()
        self.changed(trial, now.state if now is not None else "ended")

    def line(self, record: TrialRecord, what: str) -> str:
        """Of one trial, for a log."""
        ended = sum(one.state != "running" for one in SearchFolder.records(self.folder))
        title = " ".join(str(record.about[key]) for key in ("title", "seed") if key in record.about)
        values = "  ".join(f"{name}={shown(value)}" for name, value in record.setting.items())
        score = record.value("goal")
        step = f"step {record.last['step']:.0f}/{self.steps}" if record.last else "no step"
        found = "" if score is None else f"  goal {100 * score:.2f}"
        error = f"  {record.error}" if record.error else ""
        head = f"trial {record.number} ({title})" if title else f"trial {record.number}"
        return f"{head}  {step}{found}  {what}{error}  {values}  [{ended}/{self.total} ended]"

    def table(self, records: tuple[TrialRecord, ...]) -> Table:
        """Of the trials that run and the best ones."""
        ended = [record for record in records if record.state != "running"]
        failed = sum(record.state == "failed" for record in records)
        minutes, seconds = divmod(round(time.time() - self.times.begin), 60)
        title = f"{len(ended)} of {self.total} trials ended, {failed} failed, {minutes}:{seconds:02}"
        table = Table(title=title)
        names = list(dict.fromkeys(name for record in records for name in record.setting))
        for name in ("trial", "state", "step", "goal", *names):
            table.add_column(escape(name), justify="left" if name == "state" else "right")
        running = [record for record in records if record.state == "running"]
        rest = sorted(ended, key=lambda record: -(record.value("goal") or 0.0))
        best = best_first(records)[:1]
        for record in [*running, *rest][:ROWS]:
            score = record.value("goal")
            cells = ["" if name not in record.setting else shown(record.setting[name]) for name in names]
            step = f"{record.last['step']:.0f}/{self.steps}" if record.last else "-"
            style = "bold" if record in best else None
            table.add_row(str(record.number), record.state, step, "-" if score is None else f"{100 * score:.2f}", *cells, style=style)
        return table


_watch: TrialWatch | None = None
"""The one that is open in this process."""


def make_callback() -> Any:
    from ray import tune as ray_tune

    return type("Watching", (_Watching, ray_tune.Callback), {"__module__": __name__, "__reduce__": lambda self: (make_callback, ())})()


class _Watching:
    """Ray Tune's callback: passes on what happens."""

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        if _watch is not None:
            _watch.changed(trial.trial_id, "report")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if _watch is not None:
            _watch.ended(trial.trial_id, None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if _watch is not None:
            _watch.ended(trial.trial_id, _last_line(trial))


def _last_line(trial: Any) -> str:
    try:
        return f"its process died: {str(trial.get_error()).strip().splitlines()[-1]}"
    except (AttributeError, IndexError):
        return "its process died"
