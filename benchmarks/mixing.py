"""Mixing pictures and their labels: ours beside the formulation of the papers' code, which compares all pixels with each chosen class.

    python -m benchmarks.mixing

The papers' code (ClassMix, DACS), written anew here: for each picture the classes that it shows by torch.unique, half of them chosen, a
mask as the sum of one comparison for each of these, then mask * picture + (1 - mask) * picture for images, labels and confidences. Ours
takes and gives the same pictures and labels, as uint8. All take turns in every round on one core; figures are medians, ratios are taken
within a round.
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
from trainers.mixing.masks import blend, class_masks, priorities

PAPERS = "the papers' comparisons"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mixing", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--size", nargs=2, type=int, default=[512, 1024], metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cpu-time", action="store_true", help="for a machine that is busy with other things")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    clock = time.process_time if options.cpu_time else time.perf_counter
    size = f"{options.batch} pictures of {options.size[0]}x{options.size[1]}, {options.classes} classes"
    print(f"{hardware()}, one thread, {size}, {options.rounds} rounds\n")
    print(measure(options.batch, options.size, options.classes, options.rounds, clock))


def make_pictures(batch: int, size: Sequence[int], num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images (B, 3, H, W) uint8 channels-last, labels (B, H, W) uint8 in blocks of 32 pixels, confidences (B, H, W) float32."""
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, num_classes, (batch, -(-size[0] // 32), -(-size[1] // 32))).astype(np.uint8)
    labels = blocks.repeat(32, axis=1).repeat(32, axis=2)[:, : size[0], : size[1]]
    images = torch.from_numpy(generator.integers(0, 256, (batch, *size, 3)).astype(np.uint8)).permute(0, 3, 1, 2)
    return images, torch.from_numpy(np.ascontiguousarray(labels)), torch.from_numpy(generator.random((batch, *size)).astype(np.float32))


def mix(images: Tensor, labels: Tensor, sure: Tensor, priority: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As the trainer does: each picture onto the next."""
    mask = class_masks(labels, priority)
    return blend(mask, images, images.roll(-1, 0)), blend(mask, labels, labels.roll(-1, 0)), blend(mask, sure, sure.roll(-1, 0))


def mix_as_papers(images: Tensor, labels: Tensor, sure: Tensor, priority: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same of float32 images and int64 labels, which are what the papers' code holds."""
    masks = []
    for label, first in zip(labels, priority, strict=True):
        shown = torch.unique(label)
        chosen = shown[first[shown].argsort()[: len(shown) // 2]]
        masks.append((label.unsqueeze(0) == chosen.view(-1, 1, 1)).sum(0).float())
    mask = torch.stack(masks)

    def mixed(values: Tensor) -> Tensor:
        own = mask.unsqueeze(1) if values.ndim == 4 else mask
        return own * values + (1 - own) * values.roll(-1, 0)

    return mixed(images), mixed(labels), mixed(sure)


def measure(batch: int, size: Sequence[int], num_classes: int, rounds: int, clock: Callable[[], float]) -> str:
    images, labels, sure = make_pictures(batch, size, num_classes)
    floats, wide = images.contiguous().float(), labels.long()
    priority = priorities(range(batch))
    contestants: dict[str, Callable[[], tuple[Tensor, Tensor, Tensor]]] = {
        PAPERS: lambda: mix_as_papers(floats, wide, sure, priority),
        "**ours**": lambda: mix(images, labels, sure, priority),
    }
    for found, expected in zip(contestants["**ours**"](), contestants[PAPERS](), strict=True):
        if not torch.equal(found.double(), expected.double()):
            raise AssertionError("ours mixes otherwise")
    seconds = seconds_in_turn(contestants, rounds, clock)
    lines = ["| mixing | ms | times as fast |", "| --- | --- | --- |"]
    for name, mine in seconds.items():
        lines.append(f"| {name} | {1e3 * median(mine):.2f} | {times_as_fast(seconds[PAPERS], mine)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
