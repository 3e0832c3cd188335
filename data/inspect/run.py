"""The command: inspect each dataset, write its report and pictures, print what was found."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data.inspect.collect import SplitFacts, collect
from data.inspect.findings import sort_findings
from data.inspect.lints import lint
from data.inspect.opening import InspectConfig, Readable, open_datasets
from data.inspect.report import describe, write_report
from data.inspect.sheet import write_sheet


def run_inspect(config: InspectConfig) -> Iterator[dict[str, Any]]:
    """The report of each dataset, once it and its pictures are written to config.out/NAME."""
    for dataset in open_datasets(config):
        yield inspect_dataset(dataset, config)


def inspect_dataset(dataset: Readable, config: InspectConfig) -> dict[str, Any]:
    """Look at all samples of a dataset and write report.json, frequency.png, positions.png and contact_sheet.png."""
    facts, content = examine(dataset, config)
    folder = config.out / dataset.name
    if facts:
        write_pictures(folder, dataset, facts, content, config)
    write_report(folder / "report.json", content)
    return content


def examine(dataset: Readable, config: InspectConfig) -> tuple[dict[str, SplitFacts], dict[str, Any]]:
    """One pass over each split: the facts, and the content of the report."""
    facts = {split: collect(dataset, split, workers=config.workers, examples=config.examples) for split in dataset.sizes}
    findings = sort_findings([*dataset.findings, *lint(dataset.label_space, facts, examples=config.examples)])
    return facts, describe(dataset.name, dataset.label_space, facts, findings)


def write_pictures(
    folder: Path, dataset: Readable, facts: Mapping[str, SplitFacts], content: Mapping[str, Any], config: InspectConfig
) -> None:
    # Imported here: drawing libraries take a second, and a wrong key is to be answered at once.
    from data.inspect.plots import frequency_figure, positions_figure, write_figure

    if dataset.label_space.supervision != "none":
        write_figure(folder / "frequency.png", frequency_figure(content, dataset.label_space))
        write_figure(folder / "positions.png", positions_figure(dataset.name, dataset.label_space, facts))
    write_sheet(folder / "contact_sheet.png", dataset, facts, number=config.pictures, seed=config.seed)
