"""Randomness of one picture: a generator that depends on (seed, split, index) and on nothing else."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from data.streets.look import Color

T = TypeVar("T")


class Chance:
    """Draws from one numpy generator. Python's `hash` differs between processes, so texts enter by SHA-256."""

    def __init__(self, seed: int, split: str, index: int) -> None:
        digest = hashlib.sha256(split.encode()).digest()
        words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]
        self.generator = np.random.default_rng(np.random.SeedSequence([seed, *words, index]))

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.generator.random())

    def integer(self, low: int, high: int) -> int:
        """An integer of low..high, both included."""
        return low + int((high - low + 1) * float(self.generator.random()))

    def yes(self, probability: float) -> bool:
        return float(self.generator.random()) < probability

    def sign(self) -> int:
        return 1 if self.yes(0.5) else -1

    def pick(self, items: Sequence[T]) -> T:
        return items[self.integer(0, len(items) - 1)]

    def pick_weighted(self, weights: Mapping[str, float]) -> str:
        names = list(weights)
        return names[self.count(list(weights.values()))]

    def count(self, weights: Sequence[float]) -> int:
        """Index into `weights`, drawn with chances in their ratio."""
        rest = float(self.generator.random()) * sum(weights)
        for index, weight in enumerate(weights):
            rest -= weight
            if rest < 0:
                return index
        return len(weights) - 1

    def vary(self, color: Color, spread: float = 12) -> Color:
        """`color` with a little more or less light and tint."""
        shift = self.uniform(-spread, spread)
        red, green, blue = (min(255, max(0, int(c + shift + self.uniform(-spread, spread) / 3))) for c in color)
        return red, green, blue

    def bytes(self, *shape: int) -> np.ndarray:
        """(*shape) uint8, uniform."""
        return np.frombuffer(self.generator.bytes(int(np.prod(shape))), np.uint8).reshape(shape)
