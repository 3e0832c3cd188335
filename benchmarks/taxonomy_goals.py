"""Which goal function tells what a taxonomy is worth in training (paper 000, 5.3, leaves it open): drawn streets, `outputs=universal`.

    python -m benchmarks.experiment benchmarks/experiments/streets_spaces.yaml
    python -m benchmarks.experiment benchmarks/experiments/streets_taxonomy.yaml --shards runs/experiments/streets_spaces/shards
    python -m benchmarks.taxonomy_goals

Rules are searched (tune/taxonomy.py) by matrices and by answers of a concatenation, both on val; some of the sets of relations that they
find, good and bad ones, are trained with, beside those of the paper's parameters, of the default's, and the truth. Printed is how each goal
ranks them beside what the trainings score (Spearman's correlation), on val and on a test split that nothing was chosen by.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from benchmarks.taxonomy_objectives import spearman
from benchmarks.taxonomy_streets import true_pairs
from data.errors import InputError
from data.taxonomy import Evidence, Overrides, Rules, Taxonomy, TaxonomyConfig, find_taxonomy, write_universe
from tune.config import AnyConfig, Goal, HowConfig, TaxonomySearchConfig, TuneConfig
from tune.folder import SearchFolder
from tune.job import Base
from tune.report import finalist_scores
from tune.search import Search, places, train_finalists
from tune.taxonomies import GOALS
from tune.taxonomy import Scored, Scorer, best_of, named_rules, rules_of, scorer_of, search_taxonomies


@dataclass(kw_only=True)
class Row:
    """A set of relations, why it was chosen, what the goals say of it, and the mean mIoU of both datasets of what was trained with it."""

    taxonomy: Taxonomy
    titles: list[str]
    goals: Mapping[Goal, float]
    val: float = 0.0
    test: float = 0.0


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.taxonomy_goals", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/experiments"), help="folder of both experiments")
    parser.add_argument("--shards", type=Path, required=True, help="the drawn streets with a test split (dataset.test)")
    parser.add_argument("--out", type=Path, default=Path("runs/taxonomy_goals"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--settings", type=int, default=2000)
    parser.add_argument("--drawn", type=int, default=5, help="sets of relations that are drawn, besides those that are chosen")
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args(arguments)
    found = [_of_seed(options, seed) for seed in options.seeds]
    print("| | " + " | ".join(f"seed {seed}" for seed in options.seeds) + " | mean |\n| --- |" + " --- |" * (len(found) + 1))
    print("| sets of relations trained with | " + " | ".join(str(len(rows)) for rows in found) + " | |")
    for goal, name in GOALS.items():
        for split in ("val", "test"):
            each = [spearman([row.goals[goal] for row in rows], [getattr(row, split) for row in rows]) for rows in found]
            print(f"| {name.split(',')[0]}: correlation with mIoU on {split} | {_cells(each)} |")
    for title in dict.fromkeys(title for rows in found for row in rows for title in row.titles if not title.startswith("drawn")):
        own = [row.test for rows in found for row in rows if title in row.titles]
        print(f"| mIoU on test, %: {title} | {_cells([100 * value for value in own])} |")


def _cells(values: Sequence[float]) -> str:
    return " | ".join(f"{value:.2f}" for value in [*values, fmean(values)])


def _of_seed(options: argparse.Namespace, seed: int) -> list[Row]:
    steps = options.steps
    words = ["data=mine", f"data.root={options.shards}", "data.mix={streets_coarse: 4, streets_fine: 4}", "data.crop.size=[64, 96]"]
    words += ["model=edanet", f"loop.steps={steps}", f"loop.evaluate_every={steps}", f"loop.checkpoint_every={steps}"]
    words += ["cluster=none", "cluster.threads_per_worker=1", f"run.dir={options.out}", f"run.name=seed-{seed}"]
    how = HowConfig(trials=options.settings, sampler="random", seeds=1, test_split="test")
    search = Search(config=TuneConfig(search=AnyConfig(name="any"), tune=how), base=Base(words=tuple(words)), parameters=())
    folder = options.runs / "streets_taxonomy"
    evidence, winners = folder / f"found-{seed}" / "confusions.json", folder / f"winners-{seed}.parquet"
    wanted = TaxonomySearchConfig(name="taxonomy", evidence=evidence, winners=winners, truth=Path("streets"))
    rows = _chosen(scorer_of(wanted), search_taxonomies(wanted, how, ())[1], options.drawn)
    entries = []
    for number, row in enumerate(rows):
        place = search.folder.path / "candidates" / str(number)
        place.mkdir(parents=True, exist_ok=True)
        write_universe(place / "universe.yaml", row.taxonomy.universe())
        universe = f"outputs.universe={place.absolute() / 'universe.yaml'}"
        entries.append({"title": str(number), "seed": seed, "words": ["outputs=universal", universe]})
    with places(search) as place_of_ray:
        train_finalists(search, entries, place_of_ray)
    for entry in finalist_scores(search, SearchFolder.records(search.folder.finalists)):
        row = rows[int(entry["title"])]
        row.val, row.test = (entry["scores"][split]["goal"][0] for split in ("val", "test"))
    print("\n".join(f"{seed}: {', '.join(row.titles)}: {row.goals}, {row.val:.4f}, {row.test:.4f}" for row in rows), file=sys.stderr)
    return rows


def _chosen(scorer: Scorer, scored: Sequence[Scored], drawn: int) -> list[Row]:
    """The best by each goal, those of known rules, the truth, and some from the best to the worst; each set of relations once."""
    found: dict[bytes, Row] = {}

    def add(title: str, taxonomy: Taxonomy | None) -> None:
        if taxonomy is not None:
            key = taxonomy.order.below.tobytes()
            found.setdefault(key, Row(taxonomy=taxonomy, titles=[], goals=scorer.goals(taxonomy))).titles.append(title)

    for goal, name in GOALS.items():
        add(f"best by {name.split(',')[0]}", scorer.taxonomy(rules_of(best_of(scored, goal)[0].setting)))
    for title, rules in named_rules().items():
        add(title, scorer.taxonomy(rules))
    add("the truth", _truth(scorer.loaded[0]))
    others = [one for one in best_of(scored, "merged_miou") if one.key and one.key not in found]
    for number, place in enumerate(np.linspace(0, len(others) - 1, drawn).round().astype(int).tolist()):
        add(f"drawn {number}", scorer.taxonomy(rules_of(others[place].setting)))
    return list(found.values())


def _truth(evidence: Evidence) -> Taxonomy:
    pairs = set(true_pairs(tuple(evidence.labels)))
    forced = [f"{a} = {b}" for a, b in pairs if (b, a) in pairs and a < b] + [f"{a} < {b}" for a, b in pairs if (b, a) not in pairs]
    return find_taxonomy(evidence, TaxonomyConfig(rules=Rules(share=1.0)), Overrides(force=tuple(sorted(forced))))


if __name__ == "__main__":
    try:
        main()
    except (InputError, OSError) as error:
        sys.exit(f"python -m benchmarks.taxonomy_goals: {error}; train the models first, as said above")
