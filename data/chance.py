"""Random numbers for one sample: a function of a name, cheap to begin, the same in every version of every library."""

import hashlib
from collections.abc import Iterator
from typing import Protocol


class Uniform(Protocol):
    """What draws from 0..1; numpy's generators do as well."""

    def random(self) -> float: ...


class Chance:
    """Numbers drawn uniformly from [0, 1) with 53 bits, all of them given by `name`.

    numpy's generators cost twenty times as much to seed as the four numbers of a crop cost here.
    """

    def __init__(self, name: str) -> None:
        self._numbers = _numbers(name)

    def random(self) -> float:
        return next(self._numbers)


def _numbers(name: str) -> Iterator[float]:
    block = 0
    while True:
        content = hashlib.blake2b(f"{name}/{block}".encode()).digest()
        for place in range(0, len(content), 8):
            yield (int.from_bytes(content[place : place + 8], "little") >> 11) / 2**53
        block += 1
