"""Threads that bring remote shards here before they are needed."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from data.cache import CacheFullError, StoppedError
from data.store import Store

log = logging.getLogger(__name__)


class Shard(NamedTuple):
    """A file of a store, and its size where that is known."""

    store: Store
    name: str
    size: int | None


class Prefetcher:
    """Keeps the next shards of a run in the cache, the soonest needed first.

    `shards_of_step(step)` says which shards a step needs. Of the steps from the current one up to `steps_ahead` later (and
    before `last_step`) the first `num_ahead` different shards are fetched, `num_parallel` at a time. No shard is removed
    for one that is needed later; where there is no room without that, fetching waits for the next step. What cannot be
    fetched is logged: the reader will meet the error itself.

    Copies of the same cache age by when they were touched, so the shards ahead are touched at each step, the soonest needed
    last: what other threads and processes remove first is then what was read and is not needed soon.
    """

    def __init__(
        self,
        shards_of_step: Callable[[int], Iterable[Shard]],
        *,
        first_step: int,
        last_step: int,
        num_ahead: int = 8,
        num_parallel: int = 2,
        steps_ahead: int = 256,
    ) -> None:
        assert num_ahead >= 1
        assert num_parallel >= 1
        self._shards_of_step, self._last_step, self._num_ahead, self._steps_ahead = shards_of_step, last_step, num_ahead, steps_ahead
        self._step = self._known_until = first_step
        self._steps_of: dict[Shard, deque[int]] = {}
        self._fetched: set[Shard] = set()
        self._in_flight: set[Shard] = set()
        self._failed: set[Shard] = set()
        self._is_full = False
        self._is_touched = False
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, name=f"prefetch-{n}", daemon=True) for n in range(num_parallel)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def advance(self, step: int) -> None:
        """Say that all steps before `step` have been read."""
        with self._changed:
            if step > self._step:
                self._step = step
                self._is_full = self._is_touched = False
                self._changed.notify_all()

    def close(self) -> None:
        """Stop; what is on its way is given up."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (task := self._next()) is not None:
            shard, keep = task
            try:
                shard.store.fetch(shard.name, size=shard.size, keep=keep, stop=self._stop)
                self._finish(shard, self._fetched)
            except CacheFullError:
                self._finish(shard, None)
            except StoppedError:
                return
            except Exception as error:
                log.warning("fetching ahead: %s", error)
                self._finish(shard, self._failed)

    def _finish(self, shard: Shard, outcome: set[Shard] | None) -> None:
        with self._changed:
            self._in_flight.discard(shard)
            if outcome is None:
                self._is_full = True
            elif shard in self._steps_of:
                outcome.add(shard)
            self._changed.notify_all()

    def _next(self) -> tuple[Shard, frozenset[Path]] | None:
        """The next shard to fetch and the copies that must stay for it; waits for one, None at the end."""
        with self._changed:
            while not self._stop.is_set():
                window = self._window()
                for place, shard in enumerate(window if not self._is_full else ()):
                    if shard not in self._fetched | self._in_flight | self._failed:
                        self._in_flight.add(shard)
                        paths = (sooner.store.copy_path(sooner.name) for sooner in window[:place])
                        return shard, frozenset(path for path in paths if path is not None)
                self._changed.wait()
        return None

    def _window(self) -> list[Shard]:
        """The next shards, the soonest needed first."""
        self._forget_past()
        self._known_until = max(self._known_until, self._step)
        until = min(self._last_step, self._step + self._steps_ahead)
        while len(self._steps_of) < self._num_ahead and self._known_until < until:
            for shard in dict.fromkeys(self._shards_of_step(self._known_until)):
                self._steps_of.setdefault(shard, deque()).append(self._known_until)
            self._known_until += 1
        window = sorted(self._steps_of, key=lambda shard: self._steps_of[shard][0])[: self._num_ahead]
        if not self._is_touched:
            self._is_touched = True
            for shard in reversed(window):
                # A shard may be here already, or have been removed again by another process.
                if shard.store.touch(shard.name, size=shard.size):
                    self._fetched.add(shard)
                else:
                    self._fetched.discard(shard)
        return window

    def _forget_past(self) -> None:
        for shard, steps in list(self._steps_of.items()):
            while steps and steps[0] < self._step:
                steps.popleft()
            if not steps:
                del self._steps_of[shard]
                self._fetched.discard(shard)
                self._failed.discard(shard)
