"""Rare-class sampling (DAFormer, Hoyer et al. 2022, section 3.3): a class is drawn first, rare ones more often, then an image with it.

P(c) is proportional to exp((1 - f_c) / T), f_c being the share of the class among the labelled pixels of the split.
"""

import numpy as np

from data.index import LabelCounts
from data.labels import IGNORE_INDEX
from data.order import digest


class RareClassOrder:
    """The endless sequence of one stream by rare-class sampling, with replacement; an epoch is as many draws as there are samples.

    `table` is the view's (256,) uint8 from native ids to classes, `rows` numbers the samples that take part. An image counts as
    one with a class where it has at least `min_pixels` of it; a class that no image has so much of is never drawn.
    Raises ValueError where that leaves no class.
    """

    def __init__(
        self,
        seed: int,
        stream: str,
        counts: LabelCounts,
        table: np.ndarray,
        *,
        temperature: float,
        min_pixels: int = 1,
        rows: np.ndarray | None = None,
    ) -> None:
        self.seed, self.stream = seed, stream
        num_samples = len(counts.starts) - 1
        self.num_samples = num_samples if rows is None else len(rows)
        classes = table[counts.ids]
        takes_part = classes != IGNORE_INDEX
        if rows is not None:
            takes_part &= np.isin(counts.samples, rows)
        classes, samples, pixels = classes[takes_part].astype(np.int64), counts.samples[takes_part], counts.pixels[takes_part]
        # Several native ids of one image may be one class.
        places, where = np.unique(classes * num_samples + samples, return_inverse=True)
        totals = np.bincount(where, weights=pixels.astype(np.float64))
        enough = totals >= min_pixels
        classes, self._samples = np.divmod(places[enough], num_samples)
        self._samples = self._samples.astype(np.int32)
        self.classes, self._starts, self.num_images = np.unique(classes, return_index=True, return_counts=True)
        """Classes that are drawn, where each one's images begin, and how many it has."""
        if not len(self.classes):
            raise ValueError(f"no image with {min_pixels} pixels of any class")
        frequency = np.bincount(np.divmod(places, num_samples)[0], weights=totals, minlength=256)
        share = frequency[self.classes] / frequency.sum()
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
