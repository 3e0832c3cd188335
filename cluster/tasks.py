"""Pieces of work on Ray: those of `taxomix prepare` and `taxomix taxonomy`."""

import logging
import math
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from cluster.session import session
from data.errors import InputError
from data.progress import Advance
from data.tasks import Task, num_cores, run_counted

SECONDS_BETWEEN_LOOKS = 1.0

RETRIES = 5
"""How often a task is begun anew after its node or process died."""

T = TypeVar("T")

Warnings = list[tuple[str, int, str]]
"""Logger, level and text of each."""


def run_on_ray(
    tasks: Sequence[Task[T]],
    advance: Advance,
    *,
    address: str,
    workers: int | None,
    cpus_per_worker: int = 1,
    gpus_per_worker: float | None = 0,
) -> Generator[tuple[int, T], None, None]:
    """RunTasks on Ray at `address` (cluster/session.py), which is joined or started when there is something to do.

    Each task has `cpus_per_worker` and `gpus_per_worker` of the cluster, None for a GPU where it has some; `workers` are at work at a
    time, None for as many as have room. Raises InputError where there is no cluster, or no node of it has as much as a task needs.
    """
    if not tasks:
        return
    num_cpus = max(num_cores(), (workers or 1) * cpus_per_worker)  # a local Ray of fewer would not start all workers
    remedy = "start one, give ray=local, or leave ray= out"
    with session(address, num_cpus=num_cpus, where=f"ray={address}", remedy=remedy, log_to_driver=False):
        needs = {"CPU": float(cpus_per_worker), "GPU": _gpus(gpus_per_worker)}
        if needs != {"CPU": 1, "GPU": 0}:  # one CPU is worth waiting for: nodes come and go
            _check_room(needs)
        yield from _run(tasks, advance, workers=workers, needs=needs)


def _gpus(asked: float | None) -> float:
    return float(_resources().get("GPU", 0) > 0) if asked is None else asked


def _resources() -> Mapping[str, float]:
    """Of all nodes now: they may come and go."""
    import ray

    return ray.cluster_resources()


def _check_room(needs: Mapping[str, float]) -> None:
    """Raise InputError where no node has what a task needs: Ray would wait for one for ever."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(num_at_a_time(node, needs) for node in nodes):
        there = "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
        raise InputError(
            f"cpus_per_worker, gpus_per_worker: {needs['CPU']:g} and {needs['GPU']:g} found, but no node of the Ray cluster has these "
            f"({there}); lower them"
        )


def num_at_a_time(there: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """Tasks that have room in the resources that are `there`, where each `needs` some."""
    return math.floor(min(there.get(name, 0) / amount for name, amount in needs.items() if amount))


class _Counts:
    """An actor that adds up what the tasks say of their progress. A task that is begun anew counts from 0 again."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}

    def set(self, number: int, count: int) -> None:
        self.counts[number] = count

    def get(self) -> dict[int, int]:
        return self.counts


class _Warnings(logging.Handler):
    """Keeps what a task warns of: nobody reads what its process writes."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.kept: Warnings = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append((record.name, record.levelno, record.getMessage()))


def _run_task(task: Task[Any], number: int, counts: Any, sees_gpus: bool) -> tuple[Any, Warnings]:
    done = 0

    def advance(amount: int) -> None:
        nonlocal done
        done += amount
        counts.set.remote(number, done)

    if not sees_gpus:  # Ray hides those that it gave to others, but not all of them from a task that was given none
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    warnings = _Warnings()
    logging.getLogger().addHandler(warnings)
    try:
        return run_counted(task, advance), warnings.kept
    finally:
        logging.getLogger().removeHandler(warnings)


def _run(
    tasks: Sequence[Task[T]], advance: Advance, *, workers: int | None, needs: Mapping[str, float]
) -> Generator[tuple[int, T], None, None]:
    """Never more tasks handed over than can run, each done again where its node dies."""
    import ray

    counts = ray.remote(num_cpus=0, max_restarts=-1)(_Counts).remote()
    remote = ray.remote(num_cpus=needs["CPU"], num_gpus=needs["GPU"], max_retries=RETRIES)(_run_task)
    waiting = list(enumerate(tasks))[::-1]
    running: dict[Any, int] = {}
    shown = _Shown(tasks, advance)
    try:
        while waiting or running:
            while waiting and len(running) < (workers or max(1, num_at_a_time(_resources(), needs))):
                number, task = waiting.pop()
                running[remote.remote(task, number, counts, needs["GPU"] > 0)] = number
            done, _ = ray.wait(list(running), timeout=SECONDS_BETWEEN_LOOKS)
            shown.update(counts)
            for reference in done:
                number = running.pop(reference)
                result = _result(reference)
                shown.finish(number)
                yield number, result
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _result(reference: Any) -> Any:
    import ray
    from ray.exceptions import RayTaskError

    try:
        result, warnings = ray.get(reference)
    except RayTaskError as error:
        raise error.cause from error  # the task's own error, which Ray wraps
    for name, level, text in warnings:
        logging.getLogger(name).log(level, "%s", text)
    return result


class _Shown:
    """How much of each task the progress shows already."""

    def __init__(self, tasks: Sequence[Task[Any]], advance: Advance) -> None:
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
