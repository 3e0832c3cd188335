"""Taxonomies of the drawn streets, whose true relations are known, from models of several qualities: precision and recall of what is found.

    python -m benchmarks.experiment benchmarks/experiments/streets_spaces.yaml          # trains the models: 50 minutes on one core
    python -m benchmarks.taxonomy_streets --share 0.2 0.3 0.35 0.4 0.5 0.6

Three label spaces, each with a model of its own, after 100, 400 and 1,600 steps. Counted are pairs of labels of two datasets, one of which
is a part of the other, each direction by itself, so that an equal pair counts twice. Found for each two datasets by themselves (thesis:
paper 000's rules and restarts; difference: its rules, the best set; shares: the default), and jointly for all three; with the models' own
mistakes left in the shares or taken out (data/taxonomy/unmix.py).
"""

import argparse
import itertools
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from data.cache import CacheConfig
from data.errors import InputError
from data.streets.labels import true_relations
from data.taxonomy import THESIS, Evidence, Rules, TaxonomyConfig, find_taxonomy, read_evidence
from trainers.evaluation.cross import CrossConfig, collect
from trainers.evaluation.results import write_json

SPACES = ("streets_coarse", "streets_fine", "streets_rendered")
LEVELS = (100, 400, 1600)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.taxonomy_streets", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/experiments/streets_spaces"), help="folder of the models")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--levels", type=int, nargs="+", default=list(LEVELS))
    parser.add_argument("--share", type=float, nargs="*", default=[Rules().share], help="thresholds of the default rules")
    options = parser.parse_args(arguments)
    ways = dict(_ways(options.share))
    print("| steps | mIoU of the models | found | precision | recall | F1 |\n| --- | --- | --- | --- | --- | --- |")
    for level in options.levels:
        quality, figures = [], defaultdict[str, list[tuple[float, float, float]]](list)
        for seed in options.seeds:
            quality.append(mean(_miou(options.runs, space, level, seed) for space in SPACES))
            evidence = evidence_of_runs(options.runs, level, seed)
            for name, (config, is_joint) in ways.items():
                parts = [evidence] if is_joint else [evidence.only(pair) for pair in itertools.combinations(SPACES, 2)]
                found = set[tuple[str, str]]().union(*(_found(part, config) for part in parts))
                figures[name].append(_figures(found))
        for name, values in figures.items():
            cells = " | ".join(_cell(column) for column in zip(*values, strict=True))
            print(f"| {level} | {100 * mean(quality):.1f} | {name} | {cells} |", flush=True)


def _ways(shares: Sequence[float]) -> Iterator[tuple[str, tuple[TaxonomyConfig, bool]]]:
    """Name -> how, and whether for all datasets jointly."""
    # Instead of 5000 pixels, where all images together have hardly a million.
    yield "thesis, two by two", (replace(THESIS, rules=replace(THESIS.rules, min_pixels=0, min_part=Rules().min_part)), False)
    rules = {"difference": Rules(typing="difference"), **{f"shares {share:g}": Rules(share=share) for share in shares}}
    for name, of in rules.items():
        for mistakes in ("left in", "taken out"):
            config = TaxonomyConfig(rules=replace(of, unmix=mistakes == "taken out"))
            yield f"{name}, mistakes {mistakes}, exact, two by two", (config, False)
            yield f"{name}, mistakes {mistakes}, exact, joint", (config, True)


def _run(space: str, level: int, seed: int) -> str:
    return f"{space.removeprefix('streets_')}_{level}-{seed}"


def _miou(runs: Path, space: str, level: int, seed: int) -> float:
    content = json.loads((runs / f"{_run(space, level, seed)}.json").read_text())
    return float(content["datasets"][space]["miou"])


def evidence_of_runs(runs: Path, level: int, seed: int) -> Evidence:
    """What the three models answer on one another's images; asked once, and kept beside the runs."""
    kept = runs / f"confusions-{level}-{seed}.json"
    if not kept.exists():
        folders = tuple(runs / _run(space, level, seed) for space in SPACES)
        cache = CacheConfig(folder=runs / "cache")
        content, _ = collect(CrossConfig(runs=folders, checkpoint="last", cache=cache))
        write_json(kept, content)
    return read_evidence(kept)


def _found(evidence: Evidence, config: TaxonomyConfig) -> set[tuple[str, str]]:
    """Pairs of labels, the first a part of the second or equal to it."""
    try:
        taxonomy = find_taxonomy(evidence, config)
    except InputError:  # no two labels that could be related
        return set()
    below = taxonomy.order.below & ~np.eye(len(taxonomy.nodes), dtype=bool)
    return {(taxonomy.nodes[a], taxonomy.nodes[b]) for a, b in np.argwhere(below).tolist()}


def true_pairs(spaces: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Pairs of labels of these, the first a part of the second or equal to it."""
    for one, other in itertools.combinations(spaces, 2):
        for relation in true_relations(one, other):
            a, b = f"{one}/{relation.label_a}", f"{other}/{relation.label_b}"
            if relation.kind in ("subset", "equal"):
                yield a, b
            if relation.kind in ("superset", "equal"):
                yield b, a


TRUE = frozenset(true_pairs(SPACES))


def _figures(found: set[tuple[str, str]]) -> tuple[float, float, float]:
    """Precision, recall and F1."""
    right = len(found & TRUE)
    return right / len(found) if found else 0.0, right / len(TRUE), 2 * right / (len(found) + len(TRUE))


def _cell(values: Sequence[float]) -> str:
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


if __name__ == "__main__":
    try:
        main()
    except (InputError, OSError) as error:
        sys.exit(f"python -m benchmarks.taxonomy_streets: {error}; train the models first, with benchmarks/experiments/streets_spaces.yaml")
