"""Pieces of work for the processes of this machine; cluster/tasks.py runs the same pieces on Ray."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing.connection import wait as wait_for_sentinels
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from data.progress import Advance

SECONDS_BETWEEN_LOOKS = 0.3

T = TypeVar("T")
Result = TypeVar("Result", covariant=True)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What a task of `prepare` found: its rows of the index, or what is wrong with the input."""

    table: pa.Table | None = None
    problems: tuple[str, ...] = ()
    warnings: Mapping[str, int] = field(default_factory=dict)
    """What had to be done to samples and why -> to how many."""
    num_bytes: int = 0
    """Of the tar that was written."""


class Task(Protocol[Result]):
    """A piece of work that any process can do. It may be done twice, at once even, so it has to give the same again."""

    @property
    def amount(self) -> int:
        """How much work it is, in the unit that the progress is shown in."""
        ...

    def run(self, advance: Advance) -> Result:
        """Do it. `advance` is called as the work goes on; what is missing to `amount` at the end is added by the caller."""
        ...


RunTasks = Callable[[Sequence[Task[T]], Advance], Generator[tuple[int, T], None, None]]
"""Runs tasks; yields the number and the result of each as it ends, in any order. Closing the generator stops the others."""


class StoppedError(Exception):
    """The work is not wanted any more."""


class Counted:
    """Passes on what a task says of its progress: no more in all than its amount, and no less once it has ended."""

    def __init__(self, task: Task[Any], advance: Advance) -> None:
        self.left, self.advance = task.amount, advance

    def __call__(self, amount: int) -> None:
        amount = min(amount, self.left)
        self.left -= amount
        self.advance(amount)


def run_counted(task: Task[T], advance: Advance) -> T:
    counted = Counted(task, advance)
    result = task.run(counted)
    counted(counted.left)
    return result


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_locally(tasks: Sequence[Task[T]], advance: Advance, *, workers: int | None = None) -> Generator[tuple[int, T], None, None]:
    """RunTasks in as many processes as there is use for, or in this one where that is one."""
    workers = min(workers or num_cores(), len(tasks))
    if workers <= 1:
        for number, task in enumerate(tasks):
            yield number, run_counted(task, advance)
        return
    # spawn: a forked process would inherit the locks of whatever threads run here.
    context = multiprocessing.get_context("spawn")
    counter, stop = context.Value("q", 0), context.Event()
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(counter, stop)) as pool:
        numbers = {pool.submit(_run_in_worker, task): number for number, task in enumerate(tasks)}
        try:
            yield from _results(numbers, counter, advance)
        except BaseException:  # of a task, of the caller, or that the caller wants no more
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _results(numbers: dict[Future[T], int], counter: Any, advance: Advance) -> Iterator[tuple[int, T]]:
    shown, pending = 0, set(numbers)
    while pending:
        done, pending = wait(pending, timeout=SECONDS_BETWEEN_LOOKS, return_when=FIRST_COMPLETED)
        count = counter.value
        advance(count - shown)
        shown = count
        for future in done:
            yield numbers[future], future.result()


_counter: Any = None
_stop: Any = None


def _start_worker(counter: Any, stop: Any) -> None:
    global _counter, _stop
    _counter, _stop = counter, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process gets it too and says when to stop
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process of the pool would wait for work for ever if the first one is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for_sentinels([parent.sentinel])
    os._exit(1)


def _run_in_worker(task: Task[T]) -> T:
    return run_counted(task, _advance_in_worker)


def _advance_in_worker(amount: int) -> None:
    with _counter.get_lock():
        _counter.value += amount
    if _stop.is_set():
        raise StoppedError
