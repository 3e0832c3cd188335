"""The folder of a search: what lies where, and that the same search goes on in it.

search.yaml  trials/ID/ (runs, each with trial.json, reports.jsonl, ended.json, log.txt)  finalists/ID/  ray/ (Ray Tune's notes)
best.yaml  report.md  report.json  history.png  parameters.png  curves.png  pareto.png
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from data.errors import InputError
from data.files import write_text
from trainers.run_folder import RunFolder
from tune.space import Setting, Value

State = Literal["running", "complete", "stopped", "failed"]

FREE_TO_CHANGE = ("concurrent", "seconds", "seeds", "keep", "test_split")
"""Keys of `tune.` in which a search that goes on may differ: they say nothing of what is tried."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """What is known of one trial."""

    id: str
    number: int
    """In the order in which they began, from 1."""
    setting: dict[str, Value]
    state: State
    reports: tuple[dict[str, float], ...]
    """One for each evaluation: `step`, `goal`, `mean_miou`, `miou/DATASET`, `seconds` since the trial first began."""
    error: str | None = None
    about: dict[str, Any]
    """Of a finalist: its `title`, `seed`."""

    @property
    def last(self) -> dict[str, float] | None:
        return self.reports[-1] if self.reports else None

    def value(self, metric: str) -> float | None:
        """Of the last evaluation; None of a trial that failed, or has none yet."""
        return None if self.state == "failed" or self.last is None else self.last.get(metric)


class TrialFolder:
    """That of one trial, which is the folder of its run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = RunFolder(path)
        self.about, self.reports, self.ended, self.log = (path / name for name in ("trial.json", "reports.jsonl", "ended.json", "log.txt"))

    def begin(self, number: int, setting: Setting, **about: object) -> None:
        """Note what is tried; of a trial that goes on nothing changes."""
        if not self.about.is_file():
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.about, json.dumps({"number": number, "setting": dict(setting), **about}))

    def change(self, setting: Setting) -> None:
        """Note another setting from now on."""
        write_text(self.about, json.dumps({**json.loads(self.about.read_text()), "setting": dict(setting)}))

    def note(self, report: Mapping[str, float]) -> None:
        with self.reports.open("a") as file:
            file.write(json.dumps(dict(report)) + "\n")

    def read_reports(self, until: float = float("inf")) -> list[dict[str, float]]:
        """Those of the steps up to `until`, each once; of one that was reported again, the later."""
        found: dict[float, dict[str, float]] = {}
        for line in self.reports.read_text().splitlines() if self.reports.is_file() else ():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # the line that a killed process was writing
            found[entry["step"]] = entry
        return [found[step] for step in sorted(found) if step <= until]

    def drop_reports_after(self, step: float) -> None:
        """Leave only what belongs to a checkpoint that is there: later steps are taken again."""
        kept = self.read_reports(step)
        write_text(self.reports, "".join(json.dumps(entry) + "\n" for entry in kept))

    def end(self, state: State, error: str | None = None) -> None:
        if not self.ended.is_file():
            write_text(self.ended, json.dumps({"state": state, **({} if error is None else {"error": error})}))

    def record(self) -> TrialRecord | None:
        try:
            about = json.loads(self.about.read_text())
        except (OSError, ValueError):
            return None
        ended: dict[str, Any] = json.loads(self.ended.read_text()) if self.ended.is_file() else {"state": "running"}
        number, setting = about.pop("number"), about.pop("setting")
        return TrialRecord(
            id=self.path.name,
            number=number,
            setting=setting,
            state=ended["state"],
            error=ended.get("error"),
            reports=tuple(self.read_reports()),
            about=about,
        )


class SearchFolder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "search.yaml"
        self.trials, self.finalists, self.ray = path / "trials", path / "finalists", path / "ray"
        self.best, self.report, self.results = path / "best.yaml", path / "report.md", path / "report.json"

    @contextmanager
    def lock(self) -> Iterator[None]:
        with RunFolder(self.path).lock():
            yield

    def start(self, asked: Mapping[str, Any]) -> None:
        """Save what is asked; where a search is there, check that it is the same one. Raises InputError if not."""
        if RunFolder(self.path).config.is_file():
            raise InputError(f"run.name: {self.path} is the folder of a run, expected that of a search or none; choose another run.name")
        plain = json.loads(json.dumps(asked))
        if self.config.is_file():
            before = yaml.safe_load(self.config.read_text())
            for key in plain.keys() | before.keys():
                if key == "tune":
                    changed = [name for name in plain[key] if name not in FREE_TO_CHANGE and plain[key][name] != before[key].get(name)]
                    if changed:
                        raise InputError(self._other(f"tune.{changed[0]}", before[key].get(changed[0]), plain[key][changed[0]]))
                elif plain.get(key) != before.get(key):
                    raise InputError(self._other(key, before.get(key), plain.get(key)))
            return
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.config, yaml.safe_dump(plain, sort_keys=False))

    def _other(self, key: str, before: object, now: object) -> str:
        return f"{key}: {now} found, but {self.path} was started with {before}; choose another run.name or remove that folder"

    @staticmethod
    def records(folder: Path) -> tuple[TrialRecord, ...]:
        """Of all trials in one of the two folders, in the order in which they began."""
        found = (TrialFolder(path).record() for path in folder.iterdir()) if folder.is_dir() else ()
        return tuple(sorted((record for record in found if record is not None), key=lambda record: (record.number, record.id)))


def best_first(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Those that went to the end, by their goal; where none did, all that have one."""
    scored = [record for record in records if record.value("goal") is not None]
    whole = [record for record in scored if record.state == "complete"]
    return sorted(whole or scored, key=lambda record: (-(record.value("goal") or 0.0), record.number))
