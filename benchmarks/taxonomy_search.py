"""Searching for taxonomies: seconds and what is found, against the number of labels and of datasets, with the restarts of paper 000 beside.

    python -m benchmarks.taxonomy_search

Label spaces are planted (benchmarks/planted.py): cuts through one random tree of things, and models of which a part of each label's
predictions is wrong, some labels do not occur, and some things are given to other labels than the tree does; with gaps, three labels of
ten have been taken out of each dataset. Found and true pairs of related labels are compared by F1: twice those in both over the sum of
both numbers.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

from benchmarks.drawn import hardware
from benchmarks.planted import Planted, plant
from data.taxonomy.connections import Rules, connect
from data.taxonomy.exact import exact
from data.taxonomy.greedy import greedy
from data.taxonomy.objectives import agreement
from data.taxonomy.problem import Found, Problem
from data.taxonomy.restarts import restarts

SIZES = ((20, 20), (66, 150), (20, 20, 20), (30, 30, 30, 30, 30), (66, 150, 19, 19, 21, 30))
SOME = {"confusion": 0.3, "missing": 0.05, "swapped": 0.02}
MUCH = {"confusion": 0.5, "missing": 0.1, "swapped": 0.1}
NOISE: dict[str, dict[str, Any]] = {
    "none": {},
    "some": SOME,
    "much": MUCH,
    "some-gaps": {**SOME, "left_out": 0.3},
    "much-gaps": {**MUCH, "left_out": 0.3},
}
SEARCHES = ("exact", "greedy", "restarts")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.taxonomy_search", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--labels", nargs="+", action="append", type=int, metavar="N", help="of each dataset; may be given again")
    parser.add_argument("--noise", nargs="+", choices=list(NOISE), default=list(NOISE))
    parser.add_argument("--share", nargs="*", type=float, default=[Rules().share], help="thresholds of the typing by shares")
    parser.add_argument("--typing", nargs="*", choices=["strict", "difference"], default=["difference"], help="others besides")
    parser.add_argument("--search", nargs="+", choices=SEARCHES, default=list(SEARCHES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--restarts", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=60.0, help="limit of the exact search")
    options = parser.parse_args(arguments)
    print(f"{hardware()}; means over {options.seeds} seeds, seconds also the longest; {options.restarts} restarts\n")
    print("| labels | noise | typing | search | seconds | worth | gap | F1 |\n| --- | --- | --- | --- | --- | --- | --- | --- |")
    rules = {f"shares {share:g}": Rules(share=share) for share in options.share}
    rules |= {typing: Rules(typing=typing) for typing in options.typing}
    searches: dict[str, Callable[[Problem], Found]] = {
        "exact": lambda problem: exact(problem, seconds=options.seconds),
        "greedy": greedy,
        "restarts": lambda problem: restarts(problem, num=options.restarts),
    }
    for sizes in map(tuple, options.labels or SIZES):
        for noise in options.noise:
            planted = [plant(seed, sizes, **NOISE[noise]) for seed in range(options.seeds)]
            for typing, of in rules.items():
                problems = [Problem(connections=connect(one.evidence, of)) for one in planted]
                for name in options.search:
                    if name != "restarts" or len(sizes) == 2:
                        figures = measure(searches[name], problems, planted)
                        print(f"| {' + '.join(map(str, sizes))} | {noise} | {typing} | {name} | {figures} |", flush=True)


def measure(search: Callable[[Problem], Found], problems: Sequence[Problem], planted: Sequence[Planted]) -> str:
    seconds, found = [], []
    for problem in problems:
        begin = time.perf_counter()
        found.append(search(problem))
        seconds.append(time.perf_counter() - begin)
    worth = mean(of.worth for of in found)
    gaps = [of.gap for of in found if of.gap is not None]
    gap = f"{max(gaps):.2g}" if gaps else "-"
    score = mean(agreement(of.order.below, truth.below) for of, truth in zip(found, planted, strict=True))
    return f"{mean(seconds):.2f} ({max(seconds):.2f}) | {worth:.2f} | {gap} | {score:.3f}"


if __name__ == "__main__":
    main()
