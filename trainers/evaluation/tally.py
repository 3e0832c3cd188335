"""Counting over splits: each image once, whatever the number of ranks."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from data.shards import ShardSplit
from data.transforms import CropConfig
from models.model import SegmentationModel
from models.outputs.base import evaluating
from trainers.evaluation.passes import ONE_PASS, PassesConfig, read_logits
from trainers.evaluation.readings import Reading, level_readings, own_reading
from trainers.evaluation.samples import NUM_NAMED, Progress, read_samples
from trainers.evaluation.sizes import PLAIN, SizeConfig
from trainers.metrics import Scores, fold, joint_counts, scores
from trainers.ranks import Ranks

log = logging.getLogger(__name__)

MAIN = "classes"
"""The reading that a dataset's scores are of."""

PER_IMAGE = ("scored", "pixels", "ignored", "hits", "miou")
"""What is kept of each image: whether it was scored; pixels with a class, without one, and of the first those that are found; its mIoU."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What all ranks together counted over one split."""

    matrix: np.ndarray
    """Confusion matrix (true, predicted) of int64 pixel counts; its last column is of pixels for which no class is predicted."""
    images: int
    """Images that were scored."""
    names: tuple[str, ...] = ()
    """Of the rows."""
    columns: tuple[str, ...] = ()
    """What can be predicted, but for none."""
    ignored: int = 0
    """Pixels whose label is no class."""
    left_out: int = 0
    """Images that were not scored, since they cannot be read."""
    left_out_keys: tuple[str, ...] = ()
    """The first of those."""
    more: Mapping[str, "Tally"] = field(default_factory=dict)
    """The same of the other readings, by name."""
    per_image: np.ndarray = field(default_factory=lambda: np.zeros((0, len(PER_IMAGE))))
    """(images of the split, PER_IMAGE) float64."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """One split to be evaluated, and what its labels are compared with."""

    split: ShardSplit
    readings: Mapping[str, Reading]
    """By name; MAIN is the one that the scores of images are of."""
    crop: CropConfig
    """What training cut: it says how large the pictures are shown."""


def own_task(model: SegmentationModel, dataset: str, split: ShardSplit, crop: CropConfig) -> Task:
    """A dataset of the run in its own classes, and with a tree at each of its levels."""
    levels = level_readings(model.outputs, dataset)
    more = {f"{kind}/{name}": reading for kind, named in levels.items() for name, reading in named.items()}
    return Task(split=split, readings={MAIN: own_reading(model.outputs, dataset), **more}, crop=crop)


def evaluate(
    model: SegmentationModel,
    splits: Mapping[str, ShardSplit],
    crops: Mapping[str, CropConfig],
    ranks: Ranks,
    progress: Progress | None = None,
) -> dict[str, Tally]:
    """What was counted over each split, by dataset; the same on all ranks. The main one tells of images that were left out.

    `splits` are the splits to evaluate and `crops` what training cut, by dataset; `progress` wraps the iteration over each one's
    samples.
    """
    tasks = {name: own_task(model, name, split, crops[name]) for name, split in splits.items()}
    return count(model, tasks, ranks, progress=progress)


def count(
    model: SegmentationModel,
    tasks: Mapping[str, Task],
    ranks: Ranks,
    *,
    passes: PassesConfig = ONE_PASS,
    size: SizeConfig = PLAIN,
    progress: Progress | None = None,
) -> dict[str, Tally]:
    """What was counted for each of `tasks`, as `evaluate`; of each the reading MAIN, with its others as `more`."""
    tallies = {}
    for name, task in tasks.items():
        found = count_readings(model, task, ranks, what=name, passes=passes, size=size, progress=progress)
        tallies[name] = replace(found.pop(MAIN), more=found)
    return tallies


def count_readings(
    model: SegmentationModel,
    task: Task,
    ranks: Ranks,
    *,
    what: str,
    passes: PassesConfig = ONE_PASS,
    size: SizeConfig = PLAIN,
    progress: Progress | None = None,
) -> dict[str, Tally]:
    """What was counted for each reading of a task; scores of images are there with MAIN alone. `what` is shown with the progress."""
    samples = range(len(task.split))[ranks.rank :: ranks.world_size]
    counts = {name: torch.zeros(256, 256, dtype=torch.int64, device=ranks.device) for name in task.readings}
    per_image = np.zeros((len(task.split), len(PER_IMAGE)))
    with evaluating(model), closing(read_samples(task.split, samples)) as read:
        for number, image, label in read if progress is None else progress(read, total=len(samples), what=what):
            found = count_image(model, task, image, label, passes=passes, size=size)
            for name, joint in found.items():
                counts[name] += joint
            per_image[number] = _of_image(task.readings[MAIN], found[MAIN]) if MAIN in found else (1.0, *[np.nan] * (len(PER_IMAGE) - 1))
    return _sum(task, counts, per_image, ranks)


def answers(
    model: SegmentationModel, task: Task, image: np.ndarray, label: np.ndarray, *, passes: PassesConfig, size: SizeConfig
) -> tuple[np.ndarray, np.ndarray, dict[str, Tensor]]:
    """An image (H, W, 3), its label (H, W) of native ids, both at the size of the evaluation, and for each reading the column that is
    predicted (H, W) uint8 on the device."""
    image, label, crop = size.brought(image, label, task.crop)
    crops = {reading.head: crop for reading in task.readings.values()}
    ids = torch.from_numpy(np.ascontiguousarray(label)).to(model.mean.device)
    predicted = {name: torch.empty_like(ids) for name in task.readings}
    for head, rows, logits in read_logits(model, image, crops, passes):
        for name, reading in task.readings.items():
            if reading.head == head:
                predicted[name][rows] = reading.answer(logits, ids[rows]).byte()
    return image, label, predicted


def count_image(
    model: SegmentationModel, task: Task, image: np.ndarray, label: np.ndarray, *, passes: PassesConfig, size: SizeConfig
) -> dict[str, Tensor]:
    """For each reading the pixels of one image by native id and predicted column, (256, 256) int64."""
    _, label, predicted = answers(model, task, image, label, passes=passes, size=size)
    ids = torch.from_numpy(np.ascontiguousarray(label)).to(model.mean.device)
    return {name: joint_counts(ids, classes) for name, classes in predicted.items()}


def _fold(reading: Reading, counts: Tensor) -> tuple[np.ndarray, int]:
    return fold(counts.cpu().numpy(), reading.view.table, len(reading.names), len(reading.columns))


def _of_image(reading: Reading, counts: Tensor) -> tuple[float, ...]:
    matrix, ignored = _fold(reading, counts)
    result = scores(matrix, reading.names)
    return 1.0, result.num_pixels, ignored, np.diag(matrix).sum(), result.miou


def _sum(task: Task, counts: Mapping[str, Tensor], per_image: np.ndarray, ranks: Ranks) -> dict[str, Tally]:
    """The counts of all ranks together, of each rank's pixels and of its images, each of which one rank has."""
    total = ranks.sum(torch.stack(list(counts.values())))
    images = ranks.sum(torch.from_numpy(per_image).to(ranks.device)).cpu().numpy()
    split, missing = task.split, np.flatnonzero(images[:, 0] == 0)
    keys = tuple(split.key(int(number)) for number in missing[:NUM_NAMED])
    made = {}
    for (name, reading), counted in zip(task.readings.items(), total, strict=True):
        matrix, ignored = _fold(reading, counted)
        of_images = images if name == MAIN else np.zeros((0, len(PER_IMAGE)))
        made[name] = Tally(
            matrix=matrix,
            images=len(split) - len(missing),
            names=reading.names,
            columns=reading.columns,
            ignored=ignored,
            left_out=len(missing),
            left_out_keys=keys,
            per_image=of_images,
        )
    if len(missing) and ranks.is_main:
        log.warning(
            "%s: %d of %d images of split %s cannot be read and are left out of the evaluation (%s); its scores do not compare with "
            "those of all images: restore the shards, or prepare the dataset again",
            *(split.location, len(missing), len(split), split.manifest.split, some(keys, len(missing))),
        )
    return made


def some(names: Sequence[str], number: int) -> str:
    """`names` as a text, where they are the first of `number`."""
    return ", ".join(names) + (f" and {number - len(names)} more" if number > len(names) else "")


def all_scores(model: SegmentationModel, tallies: Mapping[str, Tally]) -> dict[str, Scores]:
    return {name: scores(tally.matrix, tally.names or model.outputs.views[name].names) for name, tally in tallies.items()}


def level_scores(tally: Tally) -> dict[tuple[str, str], tuple[Scores, Tally]]:
    """Of a tree: ("depths", "depth 1"), ("classifiers", "root") and so on -> its scores and what they are of."""
    found = {}
    for name, more in tally.more.items():
        kind, _, level = name.partition("/")
        if kind in ("depths", "classifiers"):
            found[kind, level] = (scores(more.matrix, more.names), more)
    return found


def mean_miou(results: Mapping[str, Scores]) -> float:
    """The mean of the mIoU of the datasets that have pixels to score (NaN if none has): it decides about the best checkpoint."""
    return mean_of(result.miou for result in results.values() if result.num_pixels)


def class_mean_miou(results: Mapping[str, Scores]) -> float:
    """The mean IoU of the classes of all datasets (NaN if there is none): the score of paper 000 for a concatenation."""
    return mean_of(iou for result in results.values() for iou in result.iou if result.num_pixels and not np.isnan(iou))


def mean_of(values: Iterable[float]) -> float:
    numbers = list(values)
    return float(np.mean(numbers)) if numbers else float("nan")
