"""The work of `taxomix prepare` on a running Ray cluster."""

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from data.errors import InputError
from data.progress import Advance
from data.tasks import Piece, RunTasks, Task, run_counted

SECONDS_BETWEEN_LOOKS = 1.0

RETRIES = 5
"""How often a shard is begun anew after its node or process died."""


@contextmanager
def ray_tasks(address: str, *, workers: int | None) -> Iterator[RunTasks]:
    """RunTasks on the Ray cluster at `address` (auto: the one this process runs in), `workers` at a time or one per CPU."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray  # late: Ray reads its variables when it is imported

    try:
        ray.init(address=address, log_to_driver=False)
    except (ConnectionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"ray={address}: no running Ray cluster found ({reason}); start one, or leave ray= out") from None
    try:
        yield partial(_run, workers=workers)
    finally:
        ray.shutdown()


class _Counts:
    """An actor that adds up what the tasks say of their progress. A task that is begun anew counts from 0 again."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}

    def set(self, number: int, count: int) -> None:
        self.counts[number] = count

    def get(self) -> dict[int, int]:
        return self.counts


def _run_task(task: Task, number: int, counts: Any) -> Piece:
    done = 0

    def advance(amount: int) -> None:
        nonlocal done
        done += amount
        counts.set.remote(number, done)

    return run_counted(task, advance)


def _run(tasks: Sequence[Task], advance: Advance, *, workers: int | None) -> Generator[tuple[int, Piece], None, None]:
    """RunTasks on Ray: never more tasks handed over than can run, each done again where its node dies."""
    import ray

    counts = ray.remote(num_cpus=0, max_restarts=-1)(_Counts).remote()
    remote = ray.remote(num_cpus=1, max_retries=RETRIES)(_run_task)
    waiting = list(enumerate(tasks))[::-1]
    running: dict[Any, int] = {}
    shown = _Shown(tasks, advance)
    try:
        while waiting or running:
            while waiting and len(running) < (workers or _num_cpus()):
                number, task = waiting.pop()
                running[remote.remote(task, number, counts)] = number
            done, _ = ray.wait(list(running), timeout=SECONDS_BETWEEN_LOOKS)
            shown.update(counts)
            for reference in done:
                number = running.pop(reference)
                piece = _result(reference)
                shown.finish(number)
                yield number, piece
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _num_cpus() -> int:
    """CPUs of all nodes now: they may come and go."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 0)))


def _result(reference: Any) -> Piece:
    import ray
    from ray.exceptions import RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from error  # the task's own error, which Ray wraps


class _Shown:
    """How much of each task the progress shows already."""

    def __init__(self, tasks: Sequence[Task], advance: Advance) -> None:
        self.amounts = [task.amount for task in tasks]
        self.shown = [0] * len(tasks)
        self.advance = advance

    def update(self, counts: Any) -> None:
        import ray
        from ray.exceptions import RayError

        with suppress(RayError, TimeoutError):  # the node of the actor may have died; another takes it up
            for number, count in ray.get(counts.get.remote(), timeout=SECONDS_BETWEEN_LOOKS).items():
                self._show(number, count)
        self.advance(0)

    def finish(self, number: int) -> None:
        self._show(number, self.amounts[number])

    def _show(self, number: int, count: int) -> None:
        self.advance(max(0, count - self.shown[number]))
        self.shown[number] = max(count, self.shown[number])
