"""What an evaluation found, as a mapping that is written as evaluation.json and printed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data.config import to_plain
from data.files import write_text
from data.taxonomy.evidence import VERSION
from trainers.collapse import COLLAPSED
from trainers.evaluation.passes import ONE_PASS, PassesConfig
from trainers.evaluation.readings import Reading
from trainers.evaluation.sizes import PLAIN, SizeConfig
from trainers.evaluation.tally import PER_IMAGE, Tally, Task, class_mean_miou, level_scores, mean_miou, mean_of, some
from trainers.metrics import Scores

FORMAT_VERSION = 3
"""Of evaluation.json; the first had no version."""


def result_of(result: Scores, tally: Tally) -> dict[str, Any]:
    """One confusion matrix with all that follows from it; what does not exist is NaN."""
    return {
        "names": result.names,
        "miou": result.miou,
        "mpa": result.mpa,
        "pixel_accuracy": result.pixel_accuracy,
        "constant_miou": result.constant_miou,
        "num_pixels": result.num_pixels,
        "ignored_pixels": tally.ignored,
        "absent": result.absent,
        "only_predicted": result.only_predicted,
        "iou": dict(zip(result.names, result.iou, strict=True)),
        "accuracy": dict(zip(result.names, result.accuracy, strict=True)),
        "pixels": dict(zip(result.names, result.pixels, strict=True)),
        "confusion_matrix": tally.matrix.tolist(),
    }


def levels_of(tally: Tally) -> dict[str, dict[str, Any]]:
    """The depths and classifiers of a tree, each as `result_of`."""
    levels: dict[str, dict[str, Any]] = {}
    for (kind, level), (result, more) in level_scores(tally).items():
        levels.setdefault(kind, {})[level] = result_of(result, more)
    return levels


def content_of(
    tallies: Mapping[str, Tally],
    results: Mapping[str, Scores],
    *,
    protocols: Mapping[str, Mapping[str, Any]] | None = None,
    **about: Any,
) -> dict[str, Any]:
    """All of an evaluation; `about` says what was evaluated and how."""
    datasets = {}
    for name, result in results.items():
        datasets[name] = result_of(result, tallies[name]) | levels_of(tallies[name])
        if protocols and name in protocols:
            datasets[name]["protocol"] = dict(protocols[name])
    return {
        "version": FORMAT_VERSION,
        **about,
        "images": {name: tally.images for name, tally in tallies.items()},
        "left_out": {name: tally.left_out for name, tally in tallies.items()},
        "left_out_keys": {name: tally.left_out_keys for name, tally in tallies.items() if tally.left_out},
        "mean_miou": mean_miou(results),
        "class_mean_miou": class_mean_miou(results),
        "datasets": datasets,
    }


def write_evaluation(path: Path, tallies: Mapping[str, Tally], results: Mapping[str, Scores], **about: Any) -> None:
    """Write the evaluation of a run in training, with the settings of `taxomix evaluate` where none is given."""
    write_json(path, content_of(tallies, results, **about, checkpoint=None, settings=settings_of(ONE_PASS, PLAIN)))


def settings_of(passes: PassesConfig, size: SizeConfig) -> dict[str, Any]:
    """How pictures were shown."""
    fields = {name: getattr(passes, name) for name in PassesConfig.__dataclass_fields__}
    return {"size": to_plain(size), **fields}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """NaN becomes null."""
    write_text(path, json.dumps(_plain(content), indent=1) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def write_images(path: Path, tasks: Mapping[str, Task], tallies: Mapping[str, Tally]) -> None:
    """A line of JSON for each image that was scored."""
    lines = []
    for name, tally in tallies.items():
        for number, values in enumerate(tally.per_image.tolist()):
            scored, pixels, ignored, hits, miou = values
            if scored:
                accuracy = hits / pixels if pixels else float("nan")
                entry = {"dataset": name, "key": tasks[name].split.key(number), "pixels": int(pixels), "ignored_pixels": int(ignored)}
                lines.append(json.dumps(_plain({**entry, "pixel_accuracy": accuracy, "miou": miou})) + "\n")
    write_text(path, "".join(lines))


def cross_content(tasks: Mapping[str, Task], tallies: Mapping[str, Tally], **about: Any) -> dict[str, Any]:
    """The confusion matrices of every dataset's labels (rows) with every dataset's predicted classes (columns)."""
    pairs = [
        pair_content(name, task.readings[key], tally)
        for name, task in tasks.items()
        for key, tally in tallies[name].more.items()
        if key.startswith("cross/")
    ]
    return {"version": VERSION, **about, "pairs": pairs}


def pair_content(name: str, reading: Reading, tally: Tally) -> dict[str, Any]:
    """What of the labels of dataset `name` is predicted as what."""
    return {
        "labels_of": name,
        "predictions_of": reading.head,
        "labels": reading.names,
        "predictions": reading.columns,
        "counts": tally.matrix[:, :-1].tolist(),
        "no_prediction": tally.matrix[:, -1].tolist(),
        "ignored_pixels": tally.ignored,
        "images": tally.images,
        "left_out": tally.left_out,
    }


def worst_images(tally: Tally, number: int) -> list[int]:
    """The images of a split with the lowest mIoU, the worst first."""
    miou = tally.per_image[:, PER_IMAGE.index("miou")]
    known = np.flatnonzero((tally.per_image[:, 0] > 0) & ~np.isnan(miou))
    return [int(i) for i in known[np.argsort(miou[known], kind="stable")][:number]]


def print_evaluation(content: Mapping[str, Any], console: Console) -> None:
    """Print what was written as evaluation.json: a table of the datasets, then of their levels and of their classes."""
    which = f", checkpoint {content['checkpoint']}" if content["checkpoint"] else ""
    averaged = ", averaged weights" if content["averaged"] else ""
    summary = Table(
        title=escape(f"{content['run']}: step {content['step']}{which}{averaged}, split {content['split']}"), title_justify="left"
    )
    summary.add_column("dataset", no_wrap=True)  # in a narrow terminal the headers give way
    for column in ("mIoU", "mPA", "pixel acc", "constant", "classes", "absent", "ignored %", "images", "left out"):
        summary.add_column(column, justify="right")
    for name, result in content["datasets"].items():
        values = [_percent(result[key]) for key in ("miou", "mpa", "pixel_accuracy", "constant_miou")]
        ignored = result["ignored_pixels"] / max(1, result["num_pixels"] + result["ignored_pixels"])
        numbers = [str(len(result["iou"])), str(len(result["absent"])), f"{100 * ignored:.1f}"]
        summary.add_row(escape(name), *values, *numbers, *(str(content[key][name]) for key in ("images", "left_out")))
    summary.add_section()
    mpa = mean_of(result["mpa"] for result in content["datasets"].values() if result["mpa"] is not None)
    summary.add_row("mean of datasets", _percent(content["mean_miou"]), _percent(None if np.isnan(mpa) else mpa))
    if len(content["datasets"]) > 1:
        summary.add_row("mean of all classes", _percent(content["class_mean_miou"]))
    console.print(summary)
    for line in _unusual(content["settings"]):
        console.print(line, markup=False)
    for name, keys in content["left_out_keys"].items():
        console.print(f"{name}: left out, since they cannot be read: {some(keys, content['left_out'][name])}", markup=False)
    for companion, scored in content.get("companions", {}).items():
        shown = ", ".join(f"{name} {_percent(result['miou'])}" for name, result in scored.items())
        console.print(f"{companion}, mIoU: {shown}", markup=False)
    for name, classes in content.get("collapsed", {}).items():
        console.print(f"{name}: {COLLAPSED}: {', '.join(classes)}", markup=False)
    for name, result in content["datasets"].items():
        _print_protocol(name, result, console)
        _print_levels(name, result, console)
        _print_classes(name, result, console)


def _unusual(settings: Mapping[str, Any]) -> list[str]:
    """What of the settings is not as in training, each as a line."""
    usual = _plain(settings_of(ONE_PASS, PLAIN))
    return [f"  {key}: {json.dumps(value)}" for key, value in _plain(settings).items() if key not in usual or usual[key] != value]


def _print_protocol(name: str, result: Mapping[str, Any], console: Console) -> None:
    protocol = result.get("protocol")
    if protocol is None:
        return
    classes = protocol["classes"]
    means = f"mIoU {_percent(protocol['miou'])}  mPA {_percent(protocol['mpa'])}"
    console.print(f"{name}, protocol {protocol['name']}: {means}  over {len(classes)} classes: {', '.join(classes)}", markup=False)
    for text, key in (("too few pixels", "too_few_pixels"), ("absent", "absent"), ("only predicted", "only_predicted")):
        if protocol[key]:
            console.print(f"  {text}: {', '.join(protocol[key])}", markup=False)
    console.print()


def _print_levels(name: str, result: Mapping[str, Any], console: Console) -> None:
    if not result.get("depths") and not result.get("classifiers"):
        return
    levels = Table(title=escape(f"{name}: levels of the tree"), title_justify="left")
    levels.add_column("level")
    for column in ("mIoU", "mPA", "pixel acc", "classes", "absent", "pixels"):
        levels.add_column(column, justify="right")
    for kind, title in (("depths", ""), ("classifiers", "classifier ")):
        for level, scored in result.get(kind, {}).items():
            values = [_percent(scored[key]) for key in ("miou", "mpa", "pixel_accuracy")]
            levels.add_row(
                escape(title + level), *values, *(str(len(scored[key])) for key in ("iou", "absent")), f"{scored['num_pixels']:,}"
            )
    console.print(levels)


def _print_classes(name: str, result: Mapping[str, Any], console: Console) -> None:
    classes = Table(title=escape(f"{name}: IoU of each class"), title_justify="left")
    for column in ("class", "IoU", "accuracy", "share of pixels"):
        classes.add_column(column, justify="left" if column == "class" else "right")
    for label, iou in result["iou"].items():
        share = f"{100 * result['pixels'][label] / max(1, result['num_pixels']):.2f} %"
        classes.add_row(escape(label), _percent(iou), _percent(result["accuracy"][label]), share)
    console.print(classes)
    absent, only = result["absent"], result["only_predicted"]
    if absent:
        console.print(f"{name}: absent, in no mean: {', '.join(absent)}", markup=False)
    if only:
        console.print(f"{name}: without a pixel and yet predicted, 0 in the mean: {', '.join(only)}", markup=False)


def _percent(value: float | None) -> str:
    return "absent" if value is None else f"{100 * value:.2f}"
