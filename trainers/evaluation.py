"""Evaluation: each image once, at the size of its label, whatever the number of ranks."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from data.errors import UnreadableError
from data.files import write_text
from data.loader import read_whole
from data.shards import ShardSplit
from data.transforms import CropConfig, Interpolation, resize_image, whole_size
from models.model import SegmentationModel
from trainers.metrics import Scores, confusion_matrix, scores
from trainers.ranks import Ranks

log = logging.getLogger(__name__)

SAMPLES_AHEAD = 4

Progress = Callable[..., Iterator[tuple[int, np.ndarray, np.ndarray]]]
"""`data.progress.track`, or what takes its arguments."""


def read_samples(split: ShardSplit, samples: Sequence[int]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Decode `samples` ahead of need: (number, image (H, W, 3) uint8, label (H, W) uint8 native ids).

    One that cannot be read is left out with a warning: it should not end a run that has trained for hours.
    """

    def load(number: int) -> tuple[int, np.ndarray, np.ndarray] | None:
        try:
            return number, *read_whole(split, number)
        except UnreadableError as error:
            log.warning("left out of the evaluation: %s", error)
            return None

    with ThreadPoolExecutor(1, thread_name_prefix="evaluation") as pool:
        remaining = iter(samples)
        pending = [pool.submit(load, number) for number in islice(remaining, SAMPLES_AHEAD)]
        while pending:
            loaded = pending.pop(0).result()
            pending.extend(pool.submit(load, number) for number in islice(remaining, 1))
            if loaded is not None:
                yield loaded


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
) -> dict[str, np.ndarray]:
    """Confusion matrices (true, predicted) of int64 pixel counts per dataset, summed over all ranks.

    `splits` are the splits to evaluate and `crops` what training cut, by dataset; `progress` wraps the iteration over each one's
    samples.
    """
    was_training = model.training
    model.eval()
    matrices = {}
    for name, split in splits.items():
        view = model.outputs.views[name]
        table = torch.from_numpy(view.table)
        samples = range(len(split))[ranks.rank :: ranks.world_size]
        matrix = torch.zeros(view.num_classes, view.num_classes, dtype=torch.int64, device=ranks.device)
        read = read_samples(split, samples)
        if progress is not None:
            read = progress(read, total=len(samples), what=name)
        for _, image, label in read:
            truth = table[torch.from_numpy(label).long()].to(ranks.device)
            matrix += confusion_matrix(truth, predict_image(model, image, {name: crops[name]})[name], view.num_classes)
        matrices[name] = ranks.sum(matrix).cpu().numpy()
    model.train(was_training)
    return matrices


def all_scores(model: SegmentationModel, matrices: Mapping[str, np.ndarray]) -> dict[str, Scores]:
    return {name: scores(matrix, model.outputs.views[name].names) for name, matrix in matrices.items()}


def mean_miou(results: Mapping[str, Scores]) -> float:
    """The mean of the mIoU of the datasets that have pixels to score (NaN if none has): it decides about the best checkpoint."""
    scored = [result.miou for result in results.values() if result.num_pixels]
    return float(np.mean(scored)) if scored else float("nan")


def write_evaluation(path: Path, matrices: Mapping[str, np.ndarray], results: Mapping[str, Scores], **about: Any) -> None:
    """Write scores and matrices as JSON; `about` says what was evaluated. IoUs that do not exist are null."""
    datasets = {
        name: {
            **asdict(result),
            "iou": dict(zip(result.names, result.iou, strict=True)),
            "confusion_matrix": matrices[name].tolist(),
        }
        for name, result in results.items()
    }
    content = {**about, "mean_miou": mean_miou(results), "datasets": datasets}
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
    for column in ("dataset", "mIoU", "mPA", "pixel acc", "constant", "classes", "images"):
        summary.add_column(column, justify="left" if column == "dataset" else "right")
    for name, result in content["datasets"].items():
        values = [_percent(result[key]) for key in ("miou", "mpa", "pixel_accuracy", "constant_miou")]
        summary.add_row(name, *values, str(len(result["iou"])), str(content["images"][name]))
    summary.add_section()
    summary.add_row("mean", _percent(content["mean_miou"]))
    console.print(summary)
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
