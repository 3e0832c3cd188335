"""Counting a confusion matrix: ours beside the formula that is everywhere, one bincount over n * truth + prediction in int64.

    python -m benchmarks.confusion

That formula is the one of torchvision's segmentation reference (references/segmentation/utils.py), written anew here: pixels with a label
are picked, then counted. It takes the same arrays, as uint8, which is what labels and predictions are here, and as int64, which is what its
own loop has. Each round measures all in turn on one core; figures are medians, ratios are taken within a round.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
import torch
from torch import Tensor

from benchmarks.drawn import hardware
from benchmarks.turns import seconds_in_turn, times_as_fast
from data.labels import IGNORE_INDEX
from trainers.metrics import confusion_matrix, joint_counts

REFERENCE = "bincount of n * truth + prediction, uint8 arrays"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.confusion", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--size", nargs=2, type=int, default=[1024, 2048], metavar=("H", "W"))
    parser.add_argument("--classes", nargs="+", type=int, default=[19, 66])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cpu-time", action="store_true", help="for a machine that is busy with other things")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    clock = time.process_time if options.cpu_time else time.perf_counter
    print(f"{hardware()}, one thread, {options.size[0]}x{options.size[1]} pixels, {options.rounds} rounds\n")
    for num_classes in options.classes:
        print(measure(num_classes, options.size, options.rounds, clock), flush=True)


def formula(truth: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """(num_classes, num_classes) int64 of values of any integer type; other labels are left out."""
    has_label = (truth >= 0) & (truth < num_classes)
    places = num_classes * truth[has_label].to(torch.int64) + predicted[has_label]
    return torch.bincount(places, minlength=num_classes**2).view(num_classes, num_classes)


def make_pixels(num_classes: int, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Labels in blocks of 32 pixels, a tenth of them ignored, and predictions of which a fifth are wrong: (H, W) uint8."""
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, num_classes, (-(-size[0] // 32), -(-size[1] // 32))).astype(np.uint8)
    right = blocks.repeat(32, axis=0).repeat(32, axis=1)[: size[0], : size[1]]
    predicted = np.where(generator.random(right.shape) < 0.2, generator.integers(0, num_classes, right.shape), right).astype(np.uint8)
    truth = np.where(generator.random(right.shape) < 0.1, IGNORE_INDEX, right).astype(np.uint8)
    return torch.from_numpy(truth), torch.from_numpy(predicted)


def measure(num_classes: int, size: Sequence[int], rounds: int, clock: Callable[[], float]) -> str:
    truth, predicted = make_pixels(num_classes, size)
    wide, wide_predicted = truth.long(), predicted.long()
    flat = (truth.flatten(), predicted.flatten())
    contestants: dict[str, Callable[[], Tensor]] = {
        REFERENCE: lambda: formula(*flat, num_classes),
        "the same, int64 arrays": lambda: formula(wide.flatten(), wide_predicted.flatten(), num_classes),
        "**ours**: classes": lambda: confusion_matrix(truth, predicted, num_classes),
        "**ours**: native ids, folded at the end": lambda: joint_counts(truth, predicted),
    }
    expected = formula(*flat, num_classes)
    for name, count in contestants.items():
        if not torch.equal(count()[:num_classes, :num_classes], expected):
            raise AssertionError(f"{name} counts otherwise")
    seconds = seconds_in_turn(contestants, rounds, clock)
    lines = ["| counting | ms | times as fast | than with int64 arrays |", "| --- | --- | --- | --- |"]
    for name, mine in seconds.items():
        figures = [times_as_fast(seconds[base], mine) for base in list(contestants)[:2]]
        lines.append(f"| {name} | {1e3 * median(mine):.2f} | {figures[0]} | {figures[1]} |")
    return f"{num_classes} classes\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
