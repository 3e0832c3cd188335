"""How models answer on the images of each other's datasets: the evidence that taxonomies are found from (paper 000, 4.3.2)."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from data.cache import CacheConfig
from data.errors import InputError
from data.labels import View
from data.progress import Advance, progress
from data.shards import ShardSplit
from data.tasks import RunTasks, run_locally
from data.taxonomy.evidence import VERSION
from data.transforms import CropConfig
from data.universe import Color
from models.model import SegmentationModel
from trainers.config import JobConfig
from trainers.evaluation.readings import cross_reading
from trainers.evaluation.results import pair_content
from trainers.evaluation.samples import Sample
from trainers.evaluation.tally import Task, count_readings
from trainers.finished import RunChoice, default_device
from trainers.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class CrossConfig:
    """Which runs are asked about which images."""

    runs: tuple[Path, ...] = ()
    """Runs of one dataset each, or of several (a concatenation: paper 000, 4.3.4); no dataset is in two of them."""
    checkpoint: Literal["best", "last"] = "best"
    root: str | None = None
    """Of the shards; null: where the run of each dataset was trained."""
    split: str | None = None
    """null: the val_split of the run of each dataset."""
    ray: str | None = None
    """Address of the Ray cluster that asks, whose nodes all see runs and shards under the same paths; auto: the one that this command
    runs in; local: one of its own on this machine. null: this process asks, one model after the other."""
    workers: int | None = None
    """Models that are asked at a time; null: as many as the cluster has room for."""
    cpus_per_worker: int = 1
    """And threads that torch computes with in each."""
    gpus_per_worker: float | None = None
    """Up to 1; null: 1 where the cluster has GPUs, else 0."""
    cache: CacheConfig

    def __post_init__(self) -> None:
        for name, default in (("workers", None), ("cpus_per_worker", 1), ("gpus_per_worker", None)):
            value = getattr(self, name)
            if self.ray is None and value != default:
                raise InputError(f"{name}: {value} found without ray=, expected both; give ray=local, or remove {name}=")
        for name in ("workers", "cpus_per_worker"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name}: {value} found, expected at least 1; raise it")
        if not 0 <= (self.gpus_per_worker or 0) <= 1:
            raise InputError(f"gpus_per_worker: {self.gpus_per_worker} found, expected 0..1, a model runs on one; mend it")


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """A run, and what is known of its datasets."""

    choice: RunChoice
    job: JobConfig
    views: Mapping[str, View]


Entries = dict[str, dict[str, Any]]
"""By dataset of the run: an entry of confusions.json."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """A task of data/tasks.py: one run is asked about the images of one dataset, as if they were of each of `heads`."""

    choice: RunChoice
    heads: tuple[str, ...]
    """Datasets of the run, which see the images alike: each image is read once, and shown to the network once."""
    name: str
    location: str
    split: str
    cache: CacheConfig
    view: View
    """Of the labels of the images."""
    crop: CropConfig
    threads: int | None
    """That torch computes with; None: its own choice."""
    amount: int
    """Images."""

    def run(self, advance: Advance) -> Entries:
        """Raises InputError where the run or the shards cannot be read."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        device = default_device()
        model, _ = _open(self.choice, device)
        split = ShardSplit(self.location, self.split, cache=self.cache)
        readings = {head: cross_reading(model.outputs, head, self.view) for head in self.heads}
        task = Task(split=split, readings=readings, crop=self.crop)
        what = f"{', '.join(self.heads)} on {self.name}"
        found = count_readings(model, task, Ranks(device=device), what=what, progress=partial(_advancing, advance))
        return {head: pair_content(self.name, reading, found[head]) for head, reading in readings.items()}


def _advancing(advance: Advance, samples: Iterable[Sample], **_: Any) -> Iterator[Sample]:
    for sample in samples:
        yield sample
        advance(1)


def collect(config: CrossConfig, run_tasks: RunTasks[Entries] | None = None) -> tuple[dict[str, Any], dict[str, Color]]:
    """Ask the model of each dataset about the images of each one, as if they were of its own: the content of confusions.json, and
    the colour of each DATASET/LABEL. Pictures are shown as `taxomix evaluate cross=true` shows them.

    `run_tasks` says where that is done: by default in this process. Raises InputError, before anything is asked, for runs or shards
    that do not fit.
    """
    asked = [_asked(config, run) for run in config.runs]
    owner: dict[str, Asked] = {}
    for one in asked:
        for name in one.views:
            if name in owner:
                both = f"{owner[name].choice.run} and in {one.choice.run}"
                raise InputError(f"runs: {name} found in {both}, expected each dataset once; leave out one")
            owner[name] = one
    if len(owner) < 2:
        raise InputError(f"runs: {', '.join(owner) or 'no dataset'} found, expected two datasets or more; give more runs")
    views = {name: one.views[name] for name, one in owner.items()}
    splits = {name: _split(config, name, one) for name, one in owner.items()}
    questions = [question for one in asked for question in _questions(config, one, splits, views)]
    found: dict[tuple[str, str], dict[str, Any]] = {}
    with (
        progress(total=sum(question.amount for question in questions), what="images asked about") as advance,
        closing((run_tasks or partial(run_locally, workers=1))(questions, advance)) as results,
    ):
        for number, entries in results:
            found |= {(head, questions[number].name): entry for head, entry in entries.items()}
    # In the order of the runs, whichever was done first.
    pairs = [found[head, name] for one in asked for name in splits for head in one.views]
    colors = {f"{name}/{label}": color for name, view in views.items() for label, color in zip(view.names, view.colors, strict=True)}
    return {"version": VERSION, "pairs": pairs}, colors


def _asked(config: CrossConfig, run: Path) -> Asked:
    choice = RunChoice(run=run, checkpoint=config.checkpoint)
    model, job = _open(choice, torch.device("cpu"))
    return Asked(choice=choice, job=job, views=model.outputs.views)


def _open(choice: RunChoice, device: torch.device) -> tuple[SegmentationModel, JobConfig]:
    try:
        model, job, _ = choice.open(device)
    except InputError as error:
        raise InputError(f"runs: {choice.run}: {error}") from None
    return model, job


def _split(config: CrossConfig, name: str, owner: Asked) -> ShardSplit:
    data = replace(owner.job.data, root=config.root or owner.job.data.root)
    split = ShardSplit(data.location(name), config.split or owner.job.data.val_split, cache=config.cache)
    if split.label_space.supervision != "pixels":
        raise InputError(f"{split.location}: labels of kind {split.label_space.supervision} found, expected pixels; leave out the run")
    return split


def _questions(config: CrossConfig, one: Asked, splits: Mapping[str, ShardSplit], views: Mapping[str, View]) -> Iterator[Question]:
    """What a run is asked: about the images of each dataset, as if they were of each of its own."""
    crops = one.job.data.crops
    for name, split in splits.items():
        alike: dict[CropConfig, list[str]] = {}
        for head in one.views:
            alike.setdefault(crops[name if name in crops else head], []).append(head)
        for crop, heads in alike.items():
            yield Question(
                choice=replace(one.choice, run=one.choice.run.absolute()),  # workers run in folders of their own
                heads=tuple(heads),
                name=name,
                location=split.location,
                split=split.manifest.split,
                cache=config.cache,
                view=views[name],
                crop=crop,
                threads=None if config.ray is None else config.cpus_per_worker,
                amount=len(split),
            )
