"""How models answer on the images of each other's datasets: the evidence that taxonomies are found from (paper 000, 4.3.2)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from data.cache import CacheConfig
from data.errors import InputError
from data.labels import View
from data.progress import track
from data.shards import ShardSplit
from data.taxonomy import Evidence
from models.model import SegmentationModel
from models.outputs.base import evaluating
from trainers.config import JobConfig
from trainers.evaluation.passes import ONE_PASS
from trainers.evaluation.readings import cross_reading
from trainers.evaluation.samples import read_samples
from trainers.evaluation.sizes import PLAIN
from trainers.evaluation.tally import Task, count_image
from trainers.finished import RunChoice, default_device
from trainers.metrics import fold


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
    cache: CacheConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """A run, and what is known of its datasets."""

    model: SegmentationModel
    job: JobConfig
    where: Path

    @property
    def views(self) -> Mapping[str, View]:
        return self.model.outputs.views


@dataclass(frozen=True, kw_only=True, eq=False)
class Collected:
    """Evidence, and what the labels it is about look like."""

    evidence: Evidence
    colors: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    """DATASET/LABEL -> RGB, where it is known."""


def collect(config: CrossConfig) -> Collected:
    """Ask the model of each dataset about the images of each other one, as if they were of its own. Every image is shown as large as
    pictures of the model's dataset were in training.

    Raises InputError, before anything is asked, for runs or shards that do not fit.
    """
    device = default_device()
    asked = [_open(config, run, device) for run in config.runs]
    owner: dict[str, Asked] = {}
    for one in asked:
        for name in one.views:
            if name in owner:
                raise InputError(f"runs: {name} found in {owner[name].where} and in {one.where}, expected each dataset once; leave out one")
            owner[name] = one
    if len(owner) < 2:
        raise InputError(f"runs: {', '.join(owner) or 'no dataset'} found, expected two datasets or more; give more runs")
    splits = {name: _split(config, name, one) for name, one in owner.items()}
    counts, pixels = dict[tuple[str, str], np.ndarray](), dict[tuple[str, str], int]()
    for one in asked:
        for name, split in splits.items():
            heads = [head for head in one.views if head != name]
            for head, matrix in _ask(one, heads, name, split, owner[name].views[name]):
                counts[head, name], pixels[head, name] = matrix[:, :-1], int(matrix.sum())
    views = {name: one.views[name] for name, one in owner.items()}
    colors = {f"{name}/{label}": color for name, view in views.items() for label, color in zip(view.names, view.colors, strict=True)}
    return Collected(
        evidence=Evidence(labels={name: view.names for name, view in views.items()}, counts=counts, pixels=pixels), colors=colors
    )


def _open(config: CrossConfig, run: Path, device: torch.device) -> Asked:
    try:
        model, job, _ = RunChoice(run=run, checkpoint=config.checkpoint).open(device)
    except InputError as error:
        raise InputError(f"runs: {run}: {error}") from None
    return Asked(model=model, job=job, where=run)


def _split(config: CrossConfig, name: str, owner: Asked) -> ShardSplit:
    data = replace(owner.job.data, root=config.root or owner.job.data.root)
    split = ShardSplit(data.location(name), config.split or owner.job.data.val_split, cache=config.cache)
    if split.label_space.supervision != "pixels":
        raise InputError(f"{split.location}: labels of kind {split.label_space.supervision} found, expected pixels; leave out the run")
    return split


def _ask(asked: Asked, heads: Sequence[str], name: str, split: ShardSplit, view: View) -> Iterator[tuple[str, np.ndarray]]:
    """For each of `heads` the confusion matrix (true labels of `view`, predicted of the head's and one more column for none) int64."""
    outputs, crops = asked.model.outputs, asked.job.data.crops
    counts = {head: torch.zeros(256, 256, dtype=torch.int64, device=asked.model.mean.device) for head in heads}
    shown = f"{'+'.join(heads)} on {name}"
    with evaluating(asked.model), closing(read_samples(split, range(len(split)))) as read:
        for _, image, label in track(read, total=len(split), what=shown):
            for head in heads:  # each shows pictures in its own size
                reading = cross_reading(outputs, head, view)
                task = Task(split=split, readings={head: reading}, crop=crops[name if name in crops else head])
                counts[head] += count_image(asked.model, task, image, label, passes=ONE_PASS, size=PLAIN)[head]
    for head, found in counts.items():
        matrix, _ = fold(found.cpu().numpy(), view.table, view.num_classes, outputs.views[head].num_classes)
        yield head, matrix
