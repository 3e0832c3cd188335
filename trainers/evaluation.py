"""Evaluation: each image once, at the size of its label, whatever the number of ranks."""

import json
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from data.errors import UnreadableError
from data.files import write_text
from data.loader import DOWNLOADS, read_whole
from data.prefetch import Prefetcher
from data.shards import ShardSplit
from data.transforms import CropConfig, Interpolation, resize_image, whole_size
from models.model import SegmentationModel
from trainers.metrics import Scores, confusion_matrix, scores
from trainers.ranks import Ranks

log = logging.getLogger(__name__)

SAMPLES_AHEAD = 4

SHARDS_AHEAD = 8
"""Remote shards of a split that each rank fetches ahead, as far as the cache has room."""

NUM_NAMED = 10
"""Samples that cannot be read and are named one by one; of a shard that is gone the rest is only counted."""

Sample = tuple[int, np.ndarray, np.ndarray]
"""Number, image (H, W, 3) uint8, label (H, W) uint8 native ids."""

Progress = Callable[..., Iterator[Sample]]
"""`data.progress.track`, or what takes its arguments."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What all ranks together counted over one split."""

    matrix: np.ndarray
    """Confusion matrix (true, predicted) of int64 pixel counts; its last column is of pixels for which no class is predicted."""
    images: int
    """Images that were scored."""
    left_out: int = 0
    """Images that were not, since they cannot be read."""
    left_out_keys: tuple[str, ...] = ()
    """The first of those."""


def read_samples(split: ShardSplit, samples: Sequence[int]) -> Generator[Sample, None, None]:
    """Decode `samples` ahead of need, and fetch the remote shards of those to come; close it to stop both.

    One that cannot be read is left out with a warning: it should not end a run that has trained for hours.
    """
    failures, stop = count(), Event()

    def load(number: int) -> Sample | None:
        try:
            return number, *read_whole(split, number, stop=stop)
        except UnreadableError as error:
            if next(failures) < NUM_NAMED:
                log.warning("left out of the evaluation: %s", error)
            return None

    pending: deque[Future[Sample | None]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="evaluation") as pool, _prefetcher(split, samples) as prefetcher:
        try:
            for place in range(len(samples)):
                if prefetcher:
                    prefetcher.advance(place)
                ahead = samples[place + len(pending) : place + 1 + SAMPLES_AHEAD]
                pending.extend(pool.submit(load, number) for number in ahead)
                loaded = pending.popleft().result()
                if loaded is not None:
                    yield loaded
        finally:
            stop.set()
            for unfinished in pending:
                unfinished.cancel()


def _prefetcher(split: ShardSplit, samples: Sequence[int]) -> "Prefetcher | nullcontext[None]":
    """What fetches the remote shards of `samples`, each of which is a step; nothing where the split is local."""
    if not split.is_remote:
        return nullcontext()
    bounds = {"first_step": 0, "last_step": len(samples), "steps_ahead": len(samples)}
    return Prefetcher(lambda place: filter(None, [split.shard(samples[place])]), num_ahead=SHARDS_AHEAD, num_parallel=DOWNLOADS, **bounds)


@torch.no_grad()
def predict_image(model: SegmentationModel, image: np.ndarray, crops: Mapping[str, CropConfig]) -> dict[str, Tensor]:
    """What `model` says about one image (H, W, 3) uint8 in the view of each dataset of `crops`: (H, W) uint8 class indices.

    The image is shown as large as training with that dataset's crop saw it, once to all datasets that see it alike.
    """
    alike: dict[tuple[tuple[int, int], Interpolation], list[str]] = {}
    for name, crop in crops.items():
        size = whole_size(crop, *image.shape[:2], input_scale=model.input_scale)
        alike.setdefault((size, crop.interpolation), []).append(name)
    predicted = {}
    for (size, interpolation), names in alike.items():
        for name, logits in _logits(model, image, names, size, interpolation).items():
            predicted[name] = model.outputs.predict(logits, name)[0].byte()
    return {name: predicted[name] for name in crops}


def _logits(
    model: SegmentationModel, image: np.ndarray, datasets: Sequence[str], size: tuple[int, int], interpolation: Interpolation
) -> dict[str, Tensor]:
    """Logits (1, K, H, W) of each of `datasets`, of an image (H, W, 3) uint8 that the network sees at `size`."""
    device = model.mean.device
    shown = np.ascontiguousarray(image) if size == image.shape[:2] else resize_image(image, size, interpolation)
    row = torch.zeros(1, dtype=torch.int64, device=device)
    pixels = torch.from_numpy(shown).to(device).permute(2, 0, 1)[None]
    return model(pixels, dict.fromkeys(datasets, row), size=image.shape[:2])


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
    was_training = model.training
    model.eval()
    tallies = {}
    for name, split in splits.items():
        view = model.outputs.views[name]
        table = torch.from_numpy(view.table)
        samples = range(len(split))[ranks.rank :: ranks.world_size]
        matrix = torch.zeros(view.num_classes, view.num_classes + 1, dtype=torch.int64, device=ranks.device)
        scored = torch.zeros(len(split), dtype=torch.int64)
        with closing(read_samples(split, samples)) as read:
            for number, image, label in read if progress is None else progress(read, total=len(samples), what=name):
                truth = table[torch.from_numpy(label).long()].to(ranks.device)
                matrix += confusion_matrix(truth, predict_image(model, image, {name: crops[name]})[name], view.num_classes)
                scored[number] = 1
        tallies[name] = _sum(split, matrix, scored, ranks)
    model.train(was_training)
    return tallies


def _sum(split: ShardSplit, matrix: Tensor, scored: Tensor, ranks: Ranks) -> Tally:
    """The counts of all ranks together, of each rank's pixels and of its samples (len(split),) int64, 1 where one was scored."""
    counts = ranks.sum(torch.cat([matrix.flatten(), scored.to(ranks.device)])).cpu().numpy()
    left_out = np.flatnonzero(counts[matrix.numel() :] == 0)
    tally = Tally(
        matrix=counts[: matrix.numel()].reshape(matrix.shape),
        images=len(split) - len(left_out),
        left_out=len(left_out),
        left_out_keys=tuple(split.key(int(number)) for number in left_out[:NUM_NAMED]),
    )
    if tally.left_out and ranks.is_main:
        log.warning(
            "%s: %d of %d images of split %s cannot be read and are left out of the evaluation (%s); its scores do not compare with "
            "those of all images: restore the shards, or prepare the dataset again",
            *(split.location, tally.left_out, len(split), split.manifest.split, _some(tally.left_out_keys, tally.left_out)),
        )
    return tally


def _some(names: Sequence[str], number: int) -> str:
    """`names` as a text, where they are the first of `number`."""
    return ", ".join(names) + (f" and {number - len(names)} more" if number > len(names) else "")


def all_scores(model: SegmentationModel, tallies: Mapping[str, Tally]) -> dict[str, Scores]:
    return {name: scores(tally.matrix, model.outputs.views[name].names) for name, tally in tallies.items()}


def mean_miou(results: Mapping[str, Scores]) -> float:
    """The mean of the mIoU of the datasets that have pixels to score (NaN if none has): it decides about the best checkpoint."""
    scored = [result.miou for result in results.values() if result.num_pixels]
    return float(np.mean(scored)) if scored else float("nan")


def write_evaluation(path: Path, tallies: Mapping[str, Tally], results: Mapping[str, Scores], **about: Any) -> None:
    """Write scores and counts as JSON; `about` says what was evaluated. IoUs that do not exist are null."""
    datasets = {
        name: {
            **asdict(result),
            "iou": dict(zip(result.names, result.iou, strict=True)),
            "confusion_matrix": tallies[name].matrix.tolist(),
        }
        for name, result in results.items()
    }
    counts = {
        "images": {name: tally.images for name, tally in tallies.items()},
        "left_out": {name: tally.left_out for name, tally in tallies.items()},
        "left_out_keys": {name: tally.left_out_keys for name, tally in tallies.items() if tally.left_out},
    }
    content = {**about, **counts, "mean_miou": mean_miou(results), "datasets": datasets}
    write_text(path, json.dumps(_without_nan(content), indent=1) + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def print_evaluation(content: Mapping[str, Any], console: Console) -> None:
    """Print what `write_evaluation` wrote: a table of the datasets, and one of their classes."""
    summary = Table(title=f"step {content['step']}, split {content['split']}", title_justify="left")
    summary.add_column("dataset", no_wrap=True)  # in a narrow terminal the headers give way
    for column in ("mIoU", "mPA", "pixel acc", "constant", "classes", "images", "left out"):
        summary.add_column(column, justify="right")
    for name, result in content["datasets"].items():
        values = [_percent(result[key]) for key in ("miou", "mpa", "pixel_accuracy", "constant_miou")]
        summary.add_row(name, *values, str(len(result["iou"])), *(str(content[key][name]) for key in ("images", "left_out")))
    summary.add_section()
    summary.add_row("mean", _percent(content["mean_miou"]))
    console.print(summary)
    for name, keys in content["left_out_keys"].items():
        console.print(f"{name}: left out, since they cannot be read: {_some(keys, content['left_out'][name])}", markup=False)
    for name, result in content["datasets"].items():
        classes = Table(title=f"{name}: IoU of each class", title_justify="left")
        true = np.sum(result["confusion_matrix"], axis=1)
        for column in ("class", "IoU", "share of pixels"):
            classes.add_column(column, justify="left" if column == "class" else "right")
        for (label, iou), pixels in zip(result["iou"].items(), true, strict=True):
            classes.add_row(label, _percent(iou), f"{100 * pixels / max(1, result['num_pixels']):.2f} %")
        console.print(classes)


def _percent(value: float | None) -> str:
    return "absent" if value is None else f"{100 * value:.2f}"
