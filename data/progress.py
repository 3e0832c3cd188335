"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")

Advance = Callable[[int], None]
"""Called with how much has been done since the last call, also with 0."""

SECONDS_TO_FIRST_LINE = 4.0
SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress(*, total: int, what: str) -> Iterator[Advance]:
    """Shows on stderr how much of `total` is done and how long the rest will take, as the function it gives is called."""
    if sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda amount: bar.advance(task, amount)
    else:
        yield _Lines(total, what).advance


class _Lines:
    """Prints a line soon after the first piece is done and then at intervals; work of seconds prints none."""

    def __init__(self, total: int, what: str) -> None:
        self.total, self.what = total, what
        self.done = 0
        self.begin = time.monotonic()
        self.next_line = self.begin + SECONDS_TO_FIRST_LINE

    def advance(self, amount: int) -> None:
        self.done += amount
        now = time.monotonic()
        if now < self.next_line or not 0 < self.done < self.total:
            return
        self.next_line = now + SECONDS_BETWEEN_LINES
        left = (now - self.begin) / self.done * (self.total - self.done)
        print(f"{self.what}: {self.done}/{self.total}, {left:.0f} s left", file=sys.stderr, flush=True)


def track(items: Iterable[T], *, total: int, what: str) -> Iterator[T]:
    """Yield `items` and show on stderr how many of `total` are done and how long the rest will take."""
    with progress(total=total, what=what) as advance:
        for item in items:
            yield item
            advance(1)
