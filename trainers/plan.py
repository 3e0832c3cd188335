"""`taxomix plan`: what a job would do, found out in seconds and without training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table

from data.mixture import Mixture
from trainers.config import JobConfig
from trainers.job import JobData, build_trainer, find_problems, open_data, untaught
from trainers.memory import MemoryPlan, plan_memory
from trainers.schedule import schedule_notes
from trainers.weights import check_weights


@dataclass(frozen=True, kw_only=True)
class StreamPlan:
    """One stream over the whole job."""

    name: str
    source: str
    """Dataset and split, with the subset where it is one."""
    role: str
    view: str
    num_samples: int
    """Samples of one epoch."""
    per_batch: tuple[int, int]
    """Fewest and most samples in a global batch."""
    per_rank: tuple[int, int]
    """Fewest and most samples that one worker has of it in a batch."""
    seen: int
    """Samples over the whole job."""
    num_windows: int | None
    num_shards: int
    gigabytes: float
    index_megabytes: float

    @property
    def epochs(self) -> float:
        return self.seen / self.num_samples


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a job would do. `problems` are what keeps it from running, `notes` what is worth a look."""

    steps: int
    world_size: int
    batch_size: int
    batches: int
    """Global batches of the whole job."""
    num_parameters: int
    memory: MemoryPlan | None
    """None where it cannot be found out."""
    streams: tuple[StreamPlan, ...]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def make_plan(job: JobConfig) -> Plan:
    """Plan `job`. Raises InputError only where its data cannot be opened, or its output space does not know their labels."""
    data = open_data(job)
    world_size = job.cluster.world_size
    trainer = build_trainer(job, data.views, torch.device("cpu"))
    problems = tuple(find_problems(job, data))
    return Plan(
        steps=job.loop.steps,
        world_size=world_size,
        batch_size=data.mixture.batch_size,
        batches=job.loop.batches,
        num_parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
        memory=plan_memory(job, data, trainer),
        streams=tuple(_stream_plan(job, data, number, world_size) for number in range(len(data.train))),
        problems=problems,
        notes=(*_notes(job, data), *(() if problems else _weights_notes(job, data))),
    )


def _notes(job: JobConfig, data: JobData) -> Iterator[str]:
    yield from job.outputs.notes(data.views)
    yield from schedule_notes(job.schedule, job.loop.steps)
    for dataset, view in data.views.items():
        missing = untaught(data, dataset)
        if 0 < len(missing) < view.num_classes:
            yield f"{dataset}: no stream supervises {', '.join(missing)} ({len(missing)} of {view.num_classes} classes)"
        if dataset not in data.val:
            yield f"{dataset}: no split {job.data.val_split} with labels, it is not evaluated"
    for name, split in data.train.items():
        if split.is_remote and job.data.streams[name].rare_classes is not None:
            gigabytes = sum(shard.bytes for shard in split.manifest.shards) / 1e9
            yield f"{name}: rare_classes draws from all shards at any time, so data.cache.max_gb has to hold its {gigabytes:.3g} GB"


def _weights_notes(job: JobConfig, data: JobData) -> Iterator[str]:
    report = check_weights(job, data.views)
    if report is not None:
        yield f"model.weights: {report.summary}"
        yield from (f"model.weights: {note}" for note in report.notes)


def _stream_plan(job: JobConfig, data: JobData, number: int, world_size: int) -> StreamPlan:
    mixture, stream = data.mixture, data.mixture.streams[number]
    config, split = job.data.streams[stream.name], data.train[stream.name]
    per_batch, per_rank = _bounds(mixture, number, job.loop.batches, world_size)
    subset = f" ({'all but ' if config.rest else ''}{config.subset})" if config.subset else ""
    return StreamPlan(
        name=stream.name,
        source=f"{data.datasets[stream.name]}/{config.split}{subset}",
        role=stream.role,
        view=data.views[data.datasets[stream.name]].name,
        num_samples=stream.order.num_samples,
        per_batch=per_batch,
        per_rank=per_rank,
        seen=mixture.consumed(job.loop.batches)[number],
        num_windows=getattr(stream.order, "num_windows", None),
        num_shards=len(split.manifest.shards),
        gigabytes=sum(shard.bytes for shard in split.manifest.shards) / 1e9,
        index_megabytes=split.index.nbytes / 1e6,
    )


def _bounds(mixture: Mixture, number: int, batches: int, world_size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Fewest and most samples of a stream in a global batch of the job, and on one worker in a batch."""
    found = set()
    for quotas in map(mixture.quotas, range(batches)):
        found.add((sum(quotas[:number]) % world_size, quotas[number]))
    # Slots are grouped by stream and dealt out in turn.
    shares = [len(range((rank - first) % world_size, quota, world_size)) for first, quota in found for rank in range(world_size)]
    per_batch = [quota for _, quota in found]
    return (min(per_batch), max(per_batch)), (min(shares), max(shares))


def print_plan(plan: Plan, console: Console) -> None:
    """The plan as a table, notes and problems below it."""
    batches = f"{plan.batches // plan.steps} batches of " if plan.batches > plan.steps else ""
    console.print(
        f"{plan.steps} steps of {batches}{plan.batch_size} samples on {plan.world_size} worker{'s' if plan.world_size > 1 else ''}"
        f" ({plan.batch_size / plan.world_size:g} each), {plan.num_parameters:,} parameters"
    )
    console.print(_memory_line(plan.memory), soft_wrap=True, highlight=False)
    columns = ("stream", "role", "view", "samples", "batch", "worker", "seen", "epochs")
    rows: list[tuple[object, ...]] = []
    for s in plan.streams:
        name = s.name if s.source == f"{s.name}/train" else f"{s.name} = {s.source}"
        rows.append((name, s.role, s.view, s.num_samples, _range(s.per_batch), _range(s.per_rank), s.seen, f"{s.epochs:.2f}"))
    console.print(_table(columns, rows, num_texts=3))
    windows = {stream.name: "-" if stream.num_windows is None else stream.num_windows for stream in plan.streams}
    rows = [(s.name, s.num_shards, f"{s.gigabytes:.3f}", f"{s.index_megabytes:.2f}", windows[s.name]) for s in plan.streams]
    console.print(_table(("read", "shards", "GB", "index MB", "windows of the order"), rows, num_texts=1))
    console.print("A reader holds the list of its shards and a window of the order; with subset or rare_classes also some bytes a sample.")
    for note in plan.notes:
        console.print(f"note: {note}", soft_wrap=True, highlight=False)
    for problem in plan.problems:
        console.print(f"cannot work: {problem}", soft_wrap=True, highlight=False)


def _memory_line(memory: MemoryPlan | None) -> str:
    if memory is None:
        return "memory of a worker: not known, since a step cannot be gone through without data"
    parts = {
        "weights": memory.weights,
        "optimizer and averages": memory.state,
        "a step": memory.step,
        "or an evaluation": memory.evaluation,
    }
    values = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items())
    return f"memory of a worker: about {memory.total / 1e9:.2f} GB of tensors at the most ({values})"


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, num_texts: int) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < num_texts else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(str, row))
    return table


def _range(bounds: tuple[int, int]) -> str:
    return f"{bounds[0]}" if bounds[0] == bounds[1] else f"{bounds[0]}..{bounds[1]}"
