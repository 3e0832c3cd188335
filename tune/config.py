"""The keys of `taxomix tune`, apart from those of the job that is tuned."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from data.errors import FieldError, InputError
from data.taxonomy.hypotheses import Among
from tune.space import Sampler

Include = Literal["auto", "levels", "classifiers", "datasets", "consistency", "threshold", "teacher", "mixing", "lr"]

Goal = Literal["merged_miou", "likelihood", "agreement"]


@dataclass(frozen=True, kw_only=True)
class AnyConfig:
    """Keys with a range each, given as space.KEY=RANGE."""

    name: Literal["any"]


@dataclass(frozen=True, kw_only=True)
class LossWeightsConfig:
    """Weights of the terms of the loss, and what the losses of mixed pictures depend on; space.KEY=RANGE adds more."""

    name: Literal["loss_weights"]
    include: tuple[Include, ...] = ("auto",)
    """auto: levels of a tree, or weights of the datasets; and where a teacher labels pictures consistency, threshold and teacher."""
    factor: float = 30.0
    """Weights are searched from the job's own over this to the job's own times this; rates of learning by its square root."""

    def __post_init__(self) -> None:
        if not self.factor > 1:
            raise FieldError("factor", f"{self.factor:g} found, expected more than 1; raise it")


@dataclass(frozen=True, kw_only=True)
class TaxonomySearchConfig:
    """The parameters of the rules that taxonomies are found by (data/taxonomy/connections.py), scored without training."""

    name: Literal["taxonomy"]
    evidence: Path
    """confusions.json of `taxomix taxonomy` or `taxomix evaluate cross=true`."""
    winners: Path | None = None
    """winners.parquet of `taxomix taxonomy test=`; for objective=merged_miou."""
    truth: Path | None = None
    """A taxonomy.yaml, or a table of relations by hand; for objective=agreement."""
    objective: Goal = "merged_miou"
    among: Among = "all"
    """merged_miou: whether a label of another dataset that wins and is part of nothing is a miss (all), or does not count (own)."""
    typings: tuple[str, ...] = ("shares", "difference", "strict")
    """What `typing` is drawn from."""
    test_evidence: Path | None = None
    """The same of a split that nothing was chosen by: what the search finds on `evidence` is scored on it too."""
    test_winners: Path | None = None
    finalists: int = 0
    """So many of the best taxonomies, and that of the paper's parameters, are trained with outputs=universal."""


SearchConfig = AnyConfig | LossWeightsConfig | TaxonomySearchConfig


@dataclass(frozen=True, kw_only=True)
class HowConfig:
    """How a search goes: the keys below `tune.`"""

    trials: int | None = None
    """Settings that are tried; null: 20, with search=taxonomy 2000."""
    sampler: Sampler | None = None
    """null: tpe, with search=taxonomy random."""
    points: int = 3
    """Values of each range, with sampler=grid."""
    scheduler: Literal["asha", "none", "pbt"] = "asha"
    grace: int | None = None
    """Steps before asha stops a trial, or between changes of pbt; null: a ninth of loop.steps, and at least loop.evaluate_every."""
    factor: int = 3
    """One of so many goes on at each rung of asha."""
    metric: str | tuple[str, ...] = "mean_miou"
    """What is to be high: mean_miou, miou/DATASET, or several of these, for which all settings are sought that are best in one way."""
    concurrent: int | None = None
    """Trials at a time; null: as many as there is room for."""
    seconds: float | None = None
    """After so many no trial begins any more, and those that run are stopped; null: no limit."""
    seed: int = 0
    """Of the sampler."""
    seeds: int = 3
    """The best setting and the job's own are trained again with so many other seeds; 0: they are not."""
    keep: int = 1
    """The best so many trials keep their checkpoints; those of others are removed as they end."""
    test_split: str | None = None
    """A split that the trainings of the end are evaluated on besides."""

    def __post_init__(self) -> None:
        least = {"trials": 1, "points": 2, "grace": 1, "factor": 2, "concurrent": 1, "seed": 0, "seeds": 0, "keep": 1}
        for name, number in least.items():
            value = getattr(self, name)
            if value is not None and value < number:
                raise FieldError(name, f"{value} found, expected at least {number}; raise it")
        if self.seconds is not None and not self.seconds > 0:
            raise FieldError("seconds", f"{self.seconds:g} found, expected more than 0, or null; mend it")
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise FieldError("metric", f"{list(self.metrics)} found, expected different names, such as mean_miou; mend it")
        if self.scheduler == "pbt" and len(self.metrics) > 1:
            raise FieldError("metric", f"{list(self.metrics)} found with tune.scheduler=pbt, which has one goal; give one")

    @property
    def num_trials(self) -> int:
        """Of a search that trains."""
        return self.trials or 20

    @property
    def metrics(self) -> tuple[str, ...]:
        return (self.metric,) if isinstance(self.metric, str) else self.metric


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    search: SearchConfig
    tune: HowConfig = field(default_factory=HowConfig)


def own_words(words: tuple[str, ...]) -> tuple[list[str], list[str], list[str]]:
    """The words of the search, those of its space, and those of the job that is tuned."""
    search, space, job = list[str](), list[str](), list[str]()
    for word in words:
        key = word.partition("=")[0].lstrip("+~")
        (space if key.startswith("space.") else search if key == "search" or key.startswith(("search.", "tune.")) else job).append(word)
    if any(not word.startswith("space.") for word in space):
        raise InputError(f"{space[0]}: found, expected space.KEY=RANGE; mend it")
    return search, space, job
