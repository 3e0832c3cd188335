"""Which goal function tells good parameters of the taxonomy's rules from bad ones, where the truth is known: drawn streets.

    python -m benchmarks.experiment benchmarks/experiments/streets_spaces.yaml
    python -m benchmarks.experiment benchmarks/experiments/streets_taxonomy.yaml --shards runs/experiments/streets_spaces/shards
    python -m benchmarks.taxonomy_objectives

Random settings of the rules, each a taxonomy of streets_coarse and streets_fine from stored matrices. Printed is how the goals rank the
settings beside the agreement with the truth (Spearman's correlation), and the agreement of what each goal picks, beside that of the paper's
parameters, of the default's and of the best that there is.
"""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from benchmarks.taxonomy_streets import evidence_of_runs, true_pairs
from data.cache import CacheConfig
from data.errors import InputError
from data.taxonomy import Evidence, Rules, Taxonomy, TaxonomyConfig, find_taxonomy
from data.taxonomy.hypotheses import Winners, read_winners, write_winners
from data.taxonomy.objectives import agreement, likelihood, merged_miou
from trainers.evaluation.cross import CrossConfig
from trainers.evaluation.winners import collect_winners

SPACES = ("streets_coarse", "streets_fine")
PAPER = Rules(typing="difference", unmix=False)
"""Its 5,000 pixels as a part of all, since these images are small."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.taxonomy_objectives", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/experiments"), help="folder of both experiments")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--levels", type=int, nargs="+", default=[100, 400, 1600], help="steps of the models that the matrices are of")
    parser.add_argument("--settings", type=int, default=1000)
    options = parser.parse_args(arguments)
    settings = [PAPER, Rules(), *random_settings(options.settings)]
    figures = defaultdict[str, list[float]](list)
    begin = time.perf_counter()
    for seed in options.seeds:
        winners = _winners(options.runs / "streets_taxonomy", seed)
        for level in options.levels:
            evidence = evidence_of_runs(options.runs / "streets_spaces", level, seed).only(SPACES)
            for name, value in _figures(evidence, winners, settings).items():
                figures[name].append(value)
    seconds = time.perf_counter() - begin
    number = len(settings) * len(options.seeds) * len(options.levels)
    print(
        f"{number} settings found and scored by each goal in {seconds:.0f} s\n\n| | mean ± deviation (each seed and level) |\n| --- | --- |"
    )
    for name, values in figures.items():
        each = ", ".join(f"{value:.2f}" for value in values)
        print(f"| {name} | {mean(values):.2f} ± {stdev(values):.2f} ({each}) |")


def random_settings(number: int) -> list[Rules]:
    generator = np.random.default_rng(0)
    return [
        Rules(
            typing=generator.choice(["shares", "difference", "strict"]).item(),
            share=round(generator.uniform(0.05, 0.8), 3),
            high=round(generator.uniform(0.2, 0.9), 3),
            score=generator.choice(["sum", "product"]).item(),
            epsilon=round(generator.uniform(0.0, 1.2), 3),
            delta=round(generator.uniform(0.05, 0.9), 3),
            min_part=round(10 ** generator.uniform(-6, -2), 7),
            min_found=round(generator.choice([0.0, generator.uniform(0, 0.3)]).item(), 3),
            unmix=bool(generator.integers(2)),
        )
        for _ in range(number)
    ]


def _figures(evidence: Evidence, winners: Sequence[Winners], settings: Sequence[Rules]) -> dict[str, float]:
    true = _true(evidence)
    scored: dict[str, list[float]] = {"agreement": [], "merged mIoU, misses counted": [], "merged mIoU, own labels": [], "likelihood": []}
    for rules in settings:
        taxonomy = _found(evidence, rules)
        scored["agreement"].append(agreement(taxonomy.order.below, true) if taxonomy else 0.0)
        scored["merged mIoU, misses counted"].append(merged_miou(taxonomy, winners, "all") if taxonomy else 0.0)
        scored["merged mIoU, own labels"].append(merged_miou(taxonomy, winners, "own") if taxonomy else 0.0)
        scored["likelihood"].append(likelihood(taxonomy, evidence) if taxonomy else -np.inf)
    truth = scored.pop("agreement")
    figures = {"agreement: the paper's parameters": truth[0], "agreement: the default": truth[1], "agreement: the best setting": max(truth)}
    for name, values in scored.items():
        figures[f"agreement: picked by {name}"] = truth[int(np.argmax(values))]
    for name, values in scored.items():
        figures[f"correlation with agreement: {name}"] = spearman(values, truth)
    return figures


def _found(evidence: Evidence, rules: Rules) -> Taxonomy | None:
    """None where no two labels could be related."""
    try:
        return find_taxonomy(evidence, TaxonomyConfig(rules=rules))
    except InputError:
        return None


def _true(evidence: Evidence) -> np.ndarray:
    true = np.eye(len(evidence.nodes), dtype=bool)
    for a, b in true_pairs(SPACES):
        true[evidence.nodes.index(a), evidence.nodes.index(b)] = True
    return true


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation."""
    ranks = [_ranks(np.array(values)) for values in (first, second)]
    return float(np.corrcoef(ranks)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """The mean rank of those that are equal."""
    _, place, number = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(number)
    return (ends - (number - 1) / 2)[place]


def _winners(runs: Path, seed: int) -> tuple[Winners, ...]:
    """Of the concatenation of that seed; asked once, and kept beside the runs."""
    kept = runs / f"winners-{seed}.parquet"
    if not kept.exists():
        cache = CacheConfig(folder=runs / "cache")
        write_winners(kept, collect_winners(runs / f"concat-{seed}", CrossConfig(checkpoint="last", cache=cache)))
    return read_winners(kept)


if __name__ == "__main__":
    try:
        main()
    except (InputError, OSError) as error:
        sys.exit(f"python -m benchmarks.taxonomy_objectives: {error}; train the models first, as said above")
