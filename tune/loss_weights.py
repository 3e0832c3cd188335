"""The space of search=loss_weights: what a job's losses are weighted by."""

from collections.abc import Iterator, Mapping
from itertools import groupby
from math import sqrt

from data.errors import InputError
from data.labels import View
from models.outputs.hierarchy import HierarchyConfig
from trainers.config import JobConfig
from trainers.job import open_data
from trainers.mixing.config import ClassMixConfig, DacsConfig
from tune.config import LossWeightsConfig
from tune.space import Choice, Numbers, Parameter


def parameters_of(config: LossWeightsConfig, job: JobConfig) -> tuple[Parameter, ...]:
    """Raises InputError for what the job does not have."""
    views = open_data(job).views
    asked: list[str] = []
    for name in config.include:
        if name == "auto":
            asked += ["levels" if isinstance(job.outputs, HierarchyConfig) else "datasets"]
            asked += ["consistency", "threshold", "teacher"] if _has_teacher(job) else []
        else:
            asked.append(name)
    if "levels" in asked and "classifiers" in asked:
        raise InputError("search.include: levels and classifiers found, which set the same weights; give one of them")
    found = [parameter for name in dict.fromkeys(asked) for parameter in _SPACES[name](config, job, views)]
    if not found:
        raise InputError(
            f"search.include: {', '.join(config.include)} found, but this job has a single term of the loss; "
            "give space.KEY=RANGE with search=any"
        )
    return tuple(found)


def _around(value: float, factor: float) -> Numbers:
    return Numbers(low=value / factor, high=value * factor, log=True)


def _levels(config: LossWeightsConfig, job: JobConfig, views: Mapping[str, View]) -> Iterator[Parameter]:
    """A factor for all classifiers of each level below the root, whose weight stays: only ratios matter to where the loss is least."""
    outputs = _tree_of(job, "levels")
    terms = outputs.terms(views)
    depths = {name: _depth(outputs, name) for name in terms}
    for level, names in groupby(sorted(terms, key=lambda name: depths[name]), key=lambda name: depths[name]):
        if level:
            paths = tuple(("trainer", "weights", name) for name in names)
            yield Parameter(name=f"weight of level {level}", range=_around(1.0, config.factor), paths=paths)


def _classifiers(config: LossWeightsConfig, job: JobConfig, views: Mapping[str, View]) -> Iterator[Parameter]:
    outputs = _tree_of(job, "classifiers")
    for name in outputs.terms(views):
        if _depth(outputs, name):
            yield _weight(config, job, name)


def _datasets(config: LossWeightsConfig, job: JobConfig, views: Mapping[str, View]) -> Iterator[Parameter]:
    """Of all terms but the first."""
    for name in job.outputs.terms(views)[1:]:
        yield _weight(config, job, name)


def _weight(config: LossWeightsConfig, job: JobConfig, term: str) -> Parameter:
    own = job.trainer.weights.get(term, 1.0) or 1.0
    return Parameter(name=f"trainer.weights.{term}", range=_around(own, config.factor), paths=(("trainer", "weights", term),))


def _consistency(config: LossWeightsConfig, job: JobConfig, views: Mapping[str, View]) -> Iterator[Parameter]:
    own = _mixing(job, "consistency").consistency or 1.0
    yield Parameter(name="trainer.consistency", range=_around(own, config.factor), paths=(("trainer", "consistency"),))


def _threshold(config: LossWeightsConfig, job: JobConfig, views: Mapping[str, View]) -> Iterator[Parameter]:
    _mixing(job, "threshold")
    yield Parameter(name="trainer.threshold", range=Numbers(low=0.5, high=0.99), paths=(("trainer", "threshold"),))


def _teacher(config: LossWeightsConfig, job: JobConfig, views: Mapping[str, View]) -> Iterator[Parameter]:
    _mixing(job, "teacher")
    decays = Choice(values=(0.9, 0.97, 0.99, 0.997, 0.999))
    yield Parameter(name="trainer.teacher.decay", range=decays, paths=(("trainer", "teacher", "decay"),))


def _shares(config: LossWeightsConfig, job: JobConfig, views: Mapping[str, View]) -> Iterator[Parameter]:
    """Samples of each stream but the first in a global batch, up to twice what they are."""
    mix = job.data.mix
    if isinstance(mix, tuple):
        raise InputError("search.include: mixing found, but data.mix has no numbers of samples; give them, as data.mix={a: 4, b: 4}")
    for name in list(mix)[1:]:
        stream = job.data.streams[name]
        path = ("data", "mix", name) if isinstance(mix[name], int) else ("data", "mix", name, "samples")
        yield Parameter(name=f"data.mix.{name}", range=Numbers(low=1, high=max(2, 2 * (stream.samples or 1)), whole=True), paths=(path,))


def _lr(config: LossWeightsConfig, job: JobConfig, views: Mapping[str, View]) -> Iterator[Parameter]:
    yield Parameter(name="optim.lr", range=_around(job.optim.lr, sqrt(config.factor)), paths=(("optim", "lr"),))


_SPACES = {
    "levels": _levels,
    "classifiers": _classifiers,
    "datasets": _datasets,
    "consistency": _consistency,
    "threshold": _threshold,
    "teacher": _teacher,
    "mixing": _shares,
    "lr": _lr,
}


def _has_teacher(job: JobConfig) -> bool:
    return isinstance(job.trainer, (ClassMixConfig, DacsConfig)) and job.trainer.mask != "none"


def _mixing(job: JobConfig, name: str) -> ClassMixConfig | DacsConfig:
    if not isinstance(job.trainer, (ClassMixConfig, DacsConfig)) or not _has_teacher(job):
        raise InputError(f"search.include: {name} found with trainer={job.trainer.name}, expected classmix or dacs with a mask; remove it")
    return job.trainer


def _tree_of(job: JobConfig, name: str) -> HierarchyConfig:
    if not isinstance(job.outputs, HierarchyConfig):
        raise InputError(f"search.include: {name} found with outputs={job.outputs.name}, expected hierarchy; remove it")
    return job.outputs


def _depth(outputs: HierarchyConfig, classifier: str) -> int:
    parent = outputs.content.parent(classifier)
    return 0 if parent is None else 1 + _depth(outputs, parent[0])
