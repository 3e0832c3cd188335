"""Rare-class sampling (DAFormer, Hoyer et al. 2022, section 3.3): a class is drawn first, rare ones more often, then an image with it.

P(c) is proportional to exp((1 - f_c) / T), f_c being the share of the class among the labelled pixels of the split.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from data.index import LabelCounts
from data.order import digest


class RareClassOrder:
    """The endless sequence of one stream by rare-class sampling, with replacement; an epoch is as many draws as there are samples.

    `labels` goes over what the samples hold, some at a time, and is gone over twice; `table` is the view's (256,) uint8 from native
    ids to classes, `rows` numbers the samples that take part (sorted). An image counts as one with a class where it has at least
    `min_pixels` of it; a class that no image has so much of is never drawn. Raises ValueError where that leaves no class.
    """

    def __init__(
        self,
        seed: int,
        stream: str,
        labels: Iterable[LabelCounts],
        table: np.ndarray,
        *,
        temperature: float,
        min_pixels: int = 1,
        rows: np.ndarray | None = None,
    ) -> None:
        self.seed, self.stream = seed, stream
        num_images, pixels, num_samples = np.zeros(256, np.int64), np.zeros(256), 0
        for counts, of_class in _by_class(labels, table, rows):
            num_images[: len(of_class)] += np.count_nonzero(of_class >= min_pixels, axis=1)
            pixels[: len(of_class)] += of_class.sum(axis=1)
            num_samples += len(counts)
        self.num_samples = num_samples if rows is None else len(rows)
        self.classes = np.flatnonzero(num_images)
        self.num_images = num_images[self.classes]
        """Classes that are drawn, and how many images each one has."""
        if not len(self.classes):
            raise ValueError(f"no image with {min_pixels} pixels of any class")
        self._starts = np.cumsum(self.num_images) - self.num_images
        self._samples = np.empty(self.num_images.sum(), np.int32)  # class after class, in order
        ends = self._starts.copy()
        for counts, of_class in _by_class(labels, table, rows):
            for number, enough in enumerate(of_class[self.classes] >= min_pixels):
                images = np.flatnonzero(enough)
                self._samples[ends[number] : ends[number] + len(images)] = images + counts.first
                ends[number] += len(images)
        share = pixels[self.classes] / pixels.sum()
        weights = np.exp((1 - share - (1 - share).max()) / temperature)
        self.probability = weights / weights.sum()
        """(len(classes),) float64: how often each class is drawn."""
        self._ends = np.cumsum(self.probability)

    def sample(self, epoch: int, offset: int) -> int:
        """Number of the sample at `offset` of `epoch`."""
        bits = digest(f"{self.seed}/{self.stream}/rare/{epoch}/{offset}", 16)
        first, second = int.from_bytes(bits[:8], "big") / 2**64, int.from_bytes(bits[8:], "big") / 2**64
        number = min(int(np.searchsorted(self._ends, first, side="right")), len(self.classes) - 1)
        return int(self._samples[self._starts[number] + int(second * self.num_images[number])])


def _by_class(labels: Iterable[LabelCounts], table: np.ndarray, rows: np.ndarray | None) -> Iterator[tuple[LabelCounts, np.ndarray]]:
    """Some samples at a time, with the pixels of each class in each of them: none in those that take no part."""
    for counts in labels:
        of_class = counts.by_class(table)
        if rows is not None:
            begin, end = np.searchsorted(rows, np.array([counts.first, counts.first + len(counts)], rows.dtype))
            takes_part = np.zeros(len(counts), bool)
            takes_part[rows[begin:end] - counts.first] = True
            of_class *= takes_part
        yield counts, of_class
