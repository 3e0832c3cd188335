"""Variants of a training over several seeds, as one table: every row a variant, every cell a score with its mean and spread.

    python -m benchmarks.experiment benchmarks/experiments/streets_hierarchy.yaml
    python -m benchmarks.experiment FILE --seeds 0 1 --jobs 1 --out runs

A file names the words of `taxomix train`. Scores are those of the last step, on the whole val split: no checkpoint is chosen by what is
reported. A run that is complete is not trained again, one that was stopped goes on, so that the command may be stopped at any time.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Literal

import numpy as np
import yaml

from data.config import build
from data.errors import InputError
from data.files import write_text
from trainers.collapse import never_said
from trainers.metrics import scores
from trainers.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """One column of the table."""

    dataset: str
    score: Literal["miou", "mpa", "pixel_accuracy"]
    classes: tuple[str, ...] | None = None
    """The classes that the mean is taken over; null: all that occur. Pixels of others count as always."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """A row that trains nothing: a variant's run, evaluated otherwise."""

    of: str
    words: tuple[str, ...]
    """Of `taxomix evaluate`."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The content of a file."""

    about: str
    words: tuple[str, ...]
    """Of `taxomix train`, for all variants. {SHARDS} stands for the folder of prepared data, {SEED} for the seed, {OUT} for the folder with
    those of all experiments, of which other files have made some."""
    variants: dict[str, tuple[str, ...]]
    """Name -> words that are its own."""
    scores: dict[str, ScoreConfig]
    """Title of a column -> what stands in it."""
    prepare: tuple[tuple[str, ...], ...] = ()
    """Words of `taxomix prepare`, one command after the other. {SHARDS} as above, {DATA} for the folder that --data names."""
    seeds: tuple[int, ...] = (0, 1, 2)
    jobs: int = 2
    """Runs at a time."""
    before: tuple[tuple[str, ...], ...] = ()
    """Commands with their words, such as [taxonomy, ...], once for each seed."""
    also: tuple[str, ...] = ()
    """Words of `taxomix evaluate` for every row: datasets that no variant is trained on."""
    evaluations: dict[str, EvaluationConfig] = field(default_factory=dict)
    """Name -> a row of its own, after those of the variants."""
    without: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Variant -> columns that it has no score for, since it does not know the dataset."""

    def __post_init__(self) -> None:
        folders: dict[str, str] = {}
        for name in self.rows:
            if folders.setdefault(_folder(name), name) != name:
                raise InputError(
                    f"variants, evaluations: {folders[_folder(name)]!r} and {name!r} found, whose runs have one name; rename one"
                )
        for name, evaluation in self.evaluations.items():
            if evaluation.of not in self.variants or name in self.variants:
                raise InputError(
                    f"evaluations.{name}.of: {evaluation.of} found, expected a variant, and a name that none has; mend the names"
                )
        for name, columns in self.without.items():
            if name not in self.rows or not set(columns) <= self.scores.keys():
                raise InputError(f"without.{name}: {', '.join(columns)} found, expected a variant and some of the scores; mend the names")

    @property
    def rows(self) -> tuple[str, ...]:
        return (*self.variants, *self.evaluations)


def _folder(variant: str) -> str:
    """What the runs of a variant are called, but for their seed."""
    return variant.replace(" ", "_")


def read_experiment(path: Path) -> Experiment:
    try:
        return build(Experiment, yaml.safe_load(path.read_text(encoding="utf-8")))
    except (InputError, OSError, yaml.YAMLError) as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}") from None


@dataclass(frozen=True)
class Bench:
    """An experiment in its folder, with RUN and RUN.log for each run; the data lie in `shards`, prepared before if `is_prepared`."""

    experiment: Experiment
    folder: Path
    data: str
    shards: Path
    is_prepared: bool = False

    def run(self, seeds: Sequence[int], jobs: int) -> None:
        """Do whatever of it is not yet done."""
        experiment = self.experiment
        prepare = () if self.is_prepared else experiment.prepare
        evaluations = [evaluation.words for evaluation in experiment.evaluations.values()]
        groups = (*prepare, experiment.words, *experiment.variants.values(), *experiment.before, *evaluations, experiment.also)
        every_word = [word for words in groups for word in words]
        if not self.data and any("{DATA}" in word for word in every_word):
            raise InputError("--data: missing, expected the folder of the datasets that the file names; give --data FOLDER")
        for words in prepare:
            self._taxomix("prepare", words, self.folder / "prepare.log")
        for seed in seeds:
            for number, (command, *rest) in enumerate(experiment.before):
                done, said = self.folder / f"before-{number}-{seed}.done", json.dumps([command, *rest])
                if not done.exists() or done.read_text() != said:
                    self._taxomix(command, rest, done.with_suffix(".log"), seed)
                    write_text(done, said)
        runs = [(variant, seed) for seed in seeds for variant in experiment.variants]
        with ThreadPoolExecutor(jobs) as pool:
            for name in pool.map(lambda run: self._train(*run), runs):
                print(f"{name}: done", file=sys.stderr, flush=True)
            rows = [(row, seed) for seed in seeds for row in experiment.evaluations]
            for name in pool.map(lambda row: self._evaluate(*row), rows):
                print(f"{name}: done", file=sys.stderr, flush=True)

    def _train(self, variant: str, seed: int) -> str:
        name = self._name(variant, seed)
        words = [*self.experiment.words, *self.experiment.variants[variant], f"seed={seed}", f"run.dir={self.folder}", f"run.name={name}"]
        self._taxomix("train", words, self.folder / f"{name}.log", seed)
        kept = self._scores_of(name)
        if not kept.exists():  # what the run says last; a later `taxomix evaluate` of it writes over its own file
            said = RunFolder(self.folder / name).evaluation
            content = json.loads(said.read_text())
            if content["checkpoint"] is not None or any(content["left_out"].values()):
                raise InputError(f"{said}: not what training wrote, or some pictures were left out; remove the run, it is trained again")
            content |= {"datasets": content["datasets"] | self._also(variant, seed, name, ())}
            write_text(kept, json.dumps(content))
        return name

    def _evaluate(self, row: str, seed: int) -> str:
        """A row of `evaluations`."""
        name, evaluation = self._name(row, seed), self.experiment.evaluations[row]
        if not self._scores_of(name).exists():
            out = self.folder / name
            words = [f"run={self.folder / self._name(evaluation.of, seed)}", "checkpoint=last", f"out={out}", "overlays=0", "worst=0"]
            self._taxomix("evaluate", [*words, *evaluation.words], self.folder / f"{name}.log", seed)
            content = json.loads(RunFolder(out).evaluation.read_text())
            content["datasets"] |= self._also(evaluation.of, seed, name, evaluation.words)
            write_text(self._scores_of(name), json.dumps(content))
        return name

    def _also(self, variant: str, seed: int, name: str, more: Sequence[str]) -> dict[str, object]:
        """Entries of the datasets that are evaluated besides."""
        if not self.experiment.also:
            return {}
        out = self.folder / f"{name}-also"
        words = [f"run={self.folder / self._name(variant, seed)}", "checkpoint=last", f"out={out}", "overlays=0", "worst=0"]
        self._taxomix("evaluate", [*words, *more, *self.experiment.also], self.folder / f"{name}.log", seed)
        content = json.loads(RunFolder(out).evaluation.read_text())
        found: dict[str, object] = content["datasets"]
        return found

    def _scores_of(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    @staticmethod
    def _name(variant: str, seed: int) -> str:
        return f"{_folder(variant)}-{seed}"

    def _filled(self, word: str, seed: int | None) -> str:
        places = {"SHARDS": self.shards, "DATA": self.data, "OUT": self.folder.parent, "SEED": seed}
        for name, place in places.items():
            word = word.replace("{" + name + "}", str(place))
        return word

    def _taxomix(self, command: str, words: Sequence[str], log: Path, seed: int | None = None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        filled = [self._filled(word, seed) for word in words]
        with log.open("a") as file:
            ended = subprocess.run([sys.executable, "-m", "taxomix", command, *filled], stdout=file, stderr=subprocess.STDOUT)
        if ended.returncode:
            raise InputError(f"{log}: `taxomix {command}` ended with {ended.returncode}; its last lines say why")

    def values(self, variant: str, seeds: Sequence[int]) -> Iterator[list[float] | None]:
        """The values of each column over the seeds, in percent; None where the variant has none."""
        contents = [json.loads(self._scores_of(self._name(variant, seed)).read_text()) for seed in seeds]
        for title, column in self.experiment.scores.items():
            if title in self.experiment.without.get(variant, ()):
                yield None
            else:
                yield [100 * score_of(column, content) for content in contents]

    def collapsed(self, variant: str, seeds: Sequence[int]) -> Counter[str]:
        """Classes of the dataset of the first column that a variant has unlearnt, or never predicts though there are some: in how many of
        its runs."""
        title, column = next(iter(self.experiment.scores.items()))
        found: Counter[str] = Counter()
        for seed in seeds if title not in self.experiment.without.get(variant, ()) else ():
            content = json.loads(self._scores_of(self._name(variant, seed)).read_text())
            entry = content["datasets"][column.dataset]
            never = never_said(np.array(entry["confusion_matrix"], np.int64), list(entry["iou"]))
            found.update(list(dict.fromkeys([*never, *content.get("collapsed", {}).get(column.dataset, ())])))
        return found

    def table(self, seeds: Sequence[int]) -> str:
        """Markdown: mean and standard deviation, and the value of each seed; where there are any, the classes that collapsed."""
        collapsed = {row: self.collapsed(row, seeds) for row in self.experiment.rows}
        titles = [*self.experiment.scores, *(["never predicted or collapsed (in runs)"] if any(collapsed.values()) else [])]
        rows = [["variant", *titles], ["---"] * (1 + len(titles))]
        for variant, classes in collapsed.items():
            found = ", ".join(f"{name} ({runs})" for name, runs in classes.most_common()) or "none"
            rows.append([variant, *map(_cell, self.values(variant, seeds)), found][: 1 + len(titles)])
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def score_of(column: ScoreConfig, content: Mapping[str, object]) -> float:
    """A score in 0..1 from the content of an evaluation.json."""
    datasets = content["datasets"]
    assert isinstance(datasets, dict)
    if column.dataset not in datasets:
        raise InputError(f"scores: dataset {column.dataset} found, expected one of {', '.join(datasets)}; mend the name or use `without`")
    entry = datasets[column.dataset]
    names = list(entry["iou"])
    unknown = [name for name in column.classes or () if name not in names]
    if unknown:
        raise InputError(f"scores: class {unknown[0]} of {column.dataset} found, expected some of {', '.join(names)}; mend the name")
    matrix = np.array(entry["confusion_matrix"], np.int64)
    chosen = list(column.classes or names)
    if column.score == "pixel_accuracy":
        rows = [names.index(name) for name in chosen]
        return float(matrix[rows, rows].sum() / matrix[rows].sum())
    miou, mpa = scores(matrix, names).means(chosen)
    return miou if column.score == "miou" else mpa


def _cell(values: Sequence[float] | None) -> str:
    if values is None:
        return "-"
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread} ({', '.join(f'{value:.1f}' for value in values)})"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiment", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("file", type=Path)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/experiments"), help="folder of shards, runs and logs; each file has its own in it"
    )
    parser.add_argument("--data", default="", help="folder of the datasets that the file prepares")
    parser.add_argument("--shards", type=Path, help="folder of prepared data, instead of preparing what the file says")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the file's")
    parser.add_argument("--jobs", type=int, help="runs at a time, instead of the file's")
    options = parser.parse_args(arguments)
    try:
        experiment = read_experiment(options.file)
        folder = (options.out / options.file.stem).absolute()
        shards = options.shards.absolute() if options.shards else folder / "shards"
        bench = Bench(experiment, folder, options.data, shards, is_prepared=options.shards is not None)
        seeds = options.seeds or experiment.seeds
        bench.run(seeds, options.jobs or experiment.jobs)
    except InputError as error:
        sys.exit(f"python -m benchmarks.experiment: {error}")
    print(f"{experiment.about}\n\nSeeds {', '.join(map(str, seeds))}: mean ± standard deviation (each), %\n\n{bench.table(seeds)}")


if __name__ == "__main__":
    main()
