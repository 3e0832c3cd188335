"""What a search found: best.yaml, which `taxomix train` takes as it is, tables as report.md and report.json, and pictures."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

import numpy as np
import yaml

from data.config import to_plain
from data.errors import FailedError
from data.files import write_text
from data.inspect.plots import write_figure
from trainers.config import RunConfig
from trainers.evaluation.command import EvaluateConfig, evaluate_run
from trainers.evaluation.results import write_json
from trainers.run_folder import RunFolder
from tune.folder import TrialFolder, TrialRecord, best_first
from tune.importance import importance_of
from tune.job import own_setting
from tune.pictures import history_figure, parameters_figure, pareto, pareto_figure
from tune.search import Search
from tune.space import Choice, Range, shown
from tune.trial import seconds_of
from tune.watch import read_times


class NothingFoundError(FailedError):
    """No trial of a search has a score; the text is the first one's error."""


def report_search(search: Search) -> dict[str, Any]:
    """Write the report of a search that has ended, and give what report.json says. Raises NothingFoundError where every trial failed."""
    folder, how = search.folder, search.how
    records, finalists = folder.records(folder.trials), folder.records(folder.finalists)
    ordered = best_first(records)
    if not ordered:
        errors = [record.error for record in records if record.error]
        raise NothingFoundError(f"no trial of {len(records)} has a score; the first error: {errors[0] if errors else 'none'}")
    best = ordered[0]
    _write_best(search, best)
    points = [(record.setting, score) for record in records if (score := record.value("goal")) is not None]
    importance = importance_of(points, search.parameters)
    front = _front(records, how.metrics)
    content = {
        "version": 1,
        "trials": {state: sum(record.state == state for record in records) for state in ("complete", "stopped", "failed")},
        "own": own_setting(search.base, search.parameters),
        "best": _entry(best),
        "front": [_entry(record) for record in front],
        "importance": importance,
        "finalists": list(finalist_scores(search, finalists)),
        "errors": {record.number: record.error for record in records if record.error},
        "time": _time(search, records, finalists),
    }
    write_json(folder.results, content)
    write_figure(folder.path / "history.png", history_figure(records, best))
    write_figure(folder.path / "parameters.png", parameters_figure(records, search.parameters, importance, best))
    if len(how.metrics) > 1:
        write_figure(folder.path / "pareto.png", pareto_figure(records, how.metrics))
    write_text(folder.report, "\n".join(_lines(search, content, ordered)) + "\n")
    return content


def _write_best(search: Search, best: TrialRecord) -> None:
    job = replace(search.base.with_setting(search.parameters, best.setting), run=RunConfig(dir=search.base.job.run.dir, name="best"))
    setting = ", ".join(f"{name}={shown(value)}" for name, value in best.setting.items())
    head = f"# The best of a search, trial {best.number}: {setting}\n# taxomix train config=THIS_FILE run.name=NAME\n"
    write_text(search.folder.best, head + yaml.safe_dump(to_plain(job), sort_keys=False))


def _entry(record: TrialRecord) -> dict[str, Any]:
    return {"trial": record.number, "id": record.id, "state": record.state, "setting": record.setting, "scores": record.last}


def _front(records: Sequence[TrialRecord], metrics: Sequence[str]) -> list[TrialRecord]:
    """The trials that none is better than in all metrics, where there are several."""
    whole = [record for record in records if record.state == "complete" and record.value("goal") is not None]
    if len(metrics) < 2 or not whole:
        return []
    kept = pareto(np.array([[record.value(name) for name in metrics] for record in whole], float))
    return [record for record, is_kept in zip(whole, kept.tolist(), strict=True) if is_kept]


def finalist_scores(search: Search, finalists: Sequence[TrialRecord]) -> Iterator[dict[str, Any]]:
    """What the trainings of the end scored, by title: on the split of validation, and on the one of `tune.test_split`."""
    names = [f"miou/{name}" for name in _datasets(finalists)]
    for title in dict.fromkeys(record.about["title"] for record in finalists):
        own = [record for record in finalists if record.about["title"] == title and record.value("goal") is not None]
        scores = {"val": {name: [record.value(name) for record in own] for name in ("goal", *names)}}
        if search.how.test_split is not None:
            tested = [_tested(search, record, search.how.test_split) for record in own]
            scores["test"] = {name: [one[name] for one in tested] for name in tested[0]} if tested else {}
        yield {"title": title, "seeds": [record.about["seed"] for record in own], "scores": scores, **_about(finalists, title)}


def _about(finalists: Sequence[TrialRecord], title: str) -> dict[str, Any]:
    return {"setting": next(record.setting for record in finalists if record.about["title"] == title)}


def _datasets(records: Sequence[TrialRecord]) -> list[str]:
    names = dict.fromkeys(name for record in records if record.last for name in record.last if name.startswith("miou/"))
    return [name.removeprefix("miou/") for name in names]


def _tested(search: Search, record: TrialRecord, split: str) -> dict[str, float]:
    """Scores of the last checkpoint of a finalist on another split; evaluated once, and kept."""
    run = TrialFolder(search.folder.finalists / record.id).run
    out = run.path / split
    path = RunFolder(out).evaluation
    if not path.is_file():
        evaluate_run(
            EvaluateConfig(run=run.path, checkpoint="last", split=split, out=out, cache=search.base.job.data.cache, overlays=0, worst=0)
        )
    datasets = json.loads(path.read_text())["datasets"]
    scores = {f"miou/{name}": float(entry["miou"]) for name, entry in datasets.items()}
    means = {"mean_miou": fmean(scores.values()), **scores}
    return {"goal": fmean(means[name] for name in search.how.metrics), **scores}


def _time(search: Search, records: Sequence[TrialRecord], finalists: Sequence[TrialRecord]) -> dict[str, float]:
    """Seconds that the search took, and into what the time of its places went: each may train all the time."""
    times = [*read_times(search.folder.trials), *read_times(search.folder.finalists)]
    seconds, places = sum(one.end - one.begin for one in times), sum((one.end - one.begin) * one.places for one in times)
    groups = ((search.folder.trials, records), (search.folder.finalists, finalists))
    spent = [seconds_of(TrialFolder(path / record.id)) for path, group in groups for record in group]
    names = spent[0] if spent else {}
    parts = {name: sum(one[name] for one in spent) / max(places, 1e-9) for name in names}
    return {"seconds": seconds, **parts, "rest": max(0.0, 1.0 - sum(parts.values()))}


def _lines(search: Search, content: Mapping[str, Any], ordered: Sequence[TrialRecord]) -> Iterator[str]:
    how, best, count = search.how, content["best"], content["trials"]
    yield f"# Search {search.base.job.run.name}"
    yield ""
    yield (
        f"{count['complete']} trials went to the end, {count['stopped']} were stopped early, {count['failed']} failed. "
        f"The goal is {' and '.join(how.metrics)}, in % on {search.base.job.data.val_split}. {_spent(content['time'])}"
    )
    yield ""
    yield "| parameter | range | the job's own | best | importance |"
    yield "| --- | --- | --- | --- | --- |"
    for one in search.parameters:
        cells = [shown(setting[one.name]) if one.name in setting else "-" for setting in (content["own"], best["setting"])]
        share = f"{100 * content['importance'][one.name]:.0f} %" if one.name in content["importance"] else "-"
        yield f"| {one.name} | {range_text(one.range)} | {cells[0]} | {cells[1]} | {share} |"
    yield ""
    score, words = _percent(best["scores"]["goal"]), f"taxomix train config={search.folder.best} run.name=NAME"
    yield f"Trial {best['trial']} scored {score}. `{words}` trains it."
    yield ""
    yield from finalist_lines(content["finalists"], search.base.job.data.val_split, how.test_split)
    if content["front"]:
        yield "None of these is worse than another in all goals:"
        yield ""
        yield from trial_lines(search, [record for record in ordered if record.id in {one["id"] for one in content["front"]}])
        yield ""
        yield "![Pareto front](pareto.png)"
        yield ""
    yield "The best trials:"
    yield ""
    yield from trial_lines(search, ordered[:10])
    yield ""
    for number, error in content["errors"].items():
        yield f"- trial {number} failed: {error}"
    yield ""
    yield "![History](history.png)"
    yield ""
    yield "![Parameters](parameters.png)"


def trial_lines(search: Search, records: Sequence[TrialRecord]) -> Iterator[str]:
    names, metrics = [one.name for one in search.parameters], [name for name in search.how.metrics if len(search.how.metrics) > 1]
    yield "| trial | goal | " + "".join(f"{name} | " for name in metrics) + "step | " + " | ".join(names) + " |"
    yield "| --- |" + " --- |" * (2 + len(metrics) + len(names))
    for record in records:
        last = record.last or {}
        scores = "".join(f"{_percent(last[name])} | " for name in metrics)
        values = " | ".join(shown(record.setting[name]) if name in record.setting else "-" for name in names)
        yield f"| {record.number} | {_percent(last['goal'])} | {scores}{last['step']:.0f} | {values} |"


def finalist_lines(finalists: Sequence[Mapping[str, Any]], val: str, test: str | None) -> Iterator[str]:
    """As a table: a column for each title, mean and spread over seeds of each score on both splits."""
    finalists = [entry for entry in finalists if entry["seeds"]]
    if not finalists:
        return
    splits = {"val": val, **({"test": test} if test else {})}
    names = list(dict.fromkeys(name for entry in finalists for scores in entry["scores"].values() for name in scores))
    yield f"Trained again with seeds {', '.join(map(str, finalists[0]['seeds']))}, mean ± deviation (each), %:"
    yield ""
    yield "| on | score | " + " | ".join(entry["title"] for entry in finalists) + " |"
    yield "| --- | --- |" + " --- |" * len(finalists)
    for split, name in ((split, name) for split in splits for name in names):
        values = [entry["scores"].get(split, {}).get(name, []) for entry in finalists]
        if any(values):
            yield f"| {splits[split]} | {name} | " + " | ".join(map(spread, values)) + " |"
    yield ""


def spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    each = ", ".join(_percent(value) for value in values)
    return f"{_percent(fmean(values))} ± {_percent(stdev(values)) if len(values) > 1 else '-'} ({each})"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _spent(time: Mapping[str, float]) -> str:
    minutes, seconds = divmod(round(time["seconds"]), 60)
    parts = ", ".join(f"{name} {100 * part:.0f} %" for name, part in time.items() if name != "seconds")
    return f"All took {minutes}:{seconds:02} minutes; of the time of its places went into {parts}."


def range_text(of: Range) -> str:
    if isinstance(of, Choice):
        return f"choice({', '.join(map(str, of.values))})"
    form = {(False, False): "uniform", (False, True): "loguniform", (True, False): "int", (True, True): "logint"}[of.whole, of.log]
    return f"{form}({of.low:.4g}, {of.high:.4g})"
