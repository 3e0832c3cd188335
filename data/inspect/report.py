"""The report: report.json for programs, tables and one line per finding for people."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data.files import write_text
from data.inspect.collect import SplitFacts
from data.inspect.findings import LEVELS, Finding, Level
from data.labels import LabelSpace

STYLES: dict[Level, str] = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def describe(name: str, space: LabelSpace, facts: Mapping[str, SplitFacts], findings: Sequence[Finding]) -> dict[str, Any]:
    """Everything that was found as plain values: what report.json holds."""
    return {
        "dataset": name,
        "supervision": space.supervision,
        "counts": {level: sum(finding.level == level for finding in findings) for level in LEVELS},
        "findings": [
            {
                "level": finding.level,
                "kind": finding.kind,
                "split": finding.split,
                "count": finding.count,
                "total": finding.total,
                "examples": list(finding.examples),
                "text": finding.text,
            }
            for finding in findings
        ],
        "splits": {split: _describe_split(of) for split, of in facts.items()},
        "classes": class_rows(space, facts),
    }


def _describe_split(of: SplitFacts) -> dict[str, Any]:
    sizes = [{"height": height, "width": width, "pictures": times} for (height, width), times in of.size_counts().most_common()]
    return {"samples": len(of), "sizes": sizes}


def class_rows(space: LabelSpace, facts: Mapping[str, SplitFacts]) -> list[dict[str, Any]]:
    """One row per id: classes by id, then ignored ids that occur, then unknown ones.

    `pixel_percent` is of all labelled pixels for a class (of boxes: of the area of all boxes), of all pixels for other ids.
    """
    classes = [(label.id, label.name, "class") for label in space.classes]
    ids = {i for i, _, _ in classes}
    names = {label.id: label.name for label in space.labels}
    occurring = np.flatnonzero(sum((of.pixels for of in facts.values()), np.zeros(256, np.int64))).tolist()
    ignored = [(i, names.get(i, "ignored"), "ignored") for i in occurring if i in space.ignore_ids]
    unknown = [(i, "unknown", "unknown") for i in occurring if not space.known_ids[i]]
    rows = []
    for native_id, name, state in (*classes, *ignored, *unknown):
        splits = {}
        for split, of in facts.items():
            whole = of.pixels[list(ids)].sum() if state == "class" else of.pixels.sum()
            splits[split] = {
                "pixels": int(of.pixels[native_id]),
                "pixel_percent": 100 * float(of.pixels[native_id] / max(1, whole)),
                "images": int(of.images[native_id]),
                "image_percent": 100 * float(of.images[native_id] / max(1, len(of))),
            }
        rows.append({"id": native_id, "name": name, "state": state, "splits": splits})
    return rows


def write_report(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=1) + "\n")


def print_report(content: Mapping[str, Any], console: Console) -> None:
    """The table of classes, the sizes, and one line per finding."""
    console.print(_table(content))
    for split, of in content["splits"].items():
        sizes = [f"{size['width']}x{size['height']}" for size in of["sizes"]]
        shown = ", ".join(sizes[:3]) + (f" and {len(sizes) - 3} other sizes" if len(sizes) > 3 else "")
        console.print(Text(f"{split}: {of['samples']} samples, {shown or 'no picture that decodes'}"), soft_wrap=True)
    for finding in content["findings"]:
        line = Text(f"{finding['level']:8}", style=STYLES[finding["level"]])
        line.append(f"{finding['kind']}: {finding['text']}", style="default")
        console.print(line, soft_wrap=True)
    counts = content["counts"]
    console.print(Text(", ".join(f"{counts[level]} {level}{'' if counts[level] == 1 else 's'}" for level in LEVELS)))


def _table(content: Mapping[str, Any]) -> Table:
    unit = "box area %" if content["supervision"] == "boxes" else "pixels %"
    table = Table(title=str(content["dataset"]), title_justify="left")
    table.add_column("id", justify="right")
    table.add_column("class")
    for split in content["splits"]:
        table.add_column(f"{split}\n{unit}", justify="right")
        table.add_column(f"{split}\nimages %", justify="right")
    for row in content["classes"]:
        cells = []
        for of in row["splits"].values():
            cells += [number(of["pixel_percent"]), number(of["image_percent"])]
        style = {"class": None, "ignored": "dim", "unknown": "red"}[row["state"]]
        table.add_row(str(row["id"]), Text(row["name"]), *cells, style=style)
    return table


def number(percent: float) -> str:
    """A percentage for a table: '-' for none, three digits otherwise."""
    if not percent:
        return "-"
    return f"{percent:.1f}" if percent >= 10 else f"{percent:.2f}" if percent >= 0.01 else f"{percent:.0e}"
