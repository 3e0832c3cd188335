"""`taxomix plan`: what a job would do, found out in seconds and without training."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from rich.console import Console
from rich.table import Table

from data.errors import InputError
from data.mixture import WITH_LABELS
from data.streams import unsupervised_classes
from trainers.config import JobConfig
from trainers.job import JobData, build_trainer, check_trainable, check_whole, open_data


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
    num_parameters: int
    streams: tuple[StreamPlan, ...]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def make_plan(job: JobConfig, *, world_size: int) -> Plan:
    """Plan `job` on `world_size` workers. Raises InputError only where its data cannot be opened."""
    data = open_data(job.data, seed=job.seed)
    problems = []
    checks = [partial(data.mixture.check_world_size, world_size), partial(check_trainable, job, data)]
    checks += [partial(check_whole, name, split, job.data.max_skipped) for name, split in data.train.items()]
    for check in checks:
        try:
            check()
        except InputError as error:
            problems.append(str(error))
    notes = []
    for dataset, view in data.views.items():
        missing = _untaught(data, dataset)
        if len(missing) == view.num_classes:
            problems.append(f"data.views.{dataset}: view {view.name} has no class that a pixel or box of its streams is of; choose another")
        elif missing:
            notes.append(f"{dataset}: no stream supervises {', '.join(missing)} ({len(missing)} of {view.num_classes} classes)")
        if dataset not in data.val:
            notes.append(f"{dataset}: no split {job.data.val_split} with labels, it is not evaluated")
    model = build_trainer(job, data.views, torch.device("meta")).model
    return Plan(
        steps=job.loop.steps,
        world_size=world_size,
        batch_size=data.mixture.batch_size,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        streams=tuple(_stream_plan(job, data, number, world_size) for number in range(len(data.train))),
        problems=tuple(problems),
        notes=tuple(notes),
    )


def _untaught(data: JobData, dataset: str) -> list[str]:
    """Classes of a dataset's view that no stream of the mix has labels of."""
    streams = [stream.name for stream in data.mixture.streams if data.datasets[stream.name] == dataset and stream.role in WITH_LABELS]
    splits = [data.train[name] for name in streams if data.train[name].label_space.supervision != "none"]
    return unsupervised_classes(data.views[dataset], splits)


STEPS_LOOKED_AT = 1000
"""Steps whose batches are laid out to find the fewest and the most samples of a stream; fixed quotas are the same in all."""


def _stream_plan(job: JobConfig, data: JobData, number: int, world_size: int) -> StreamPlan:
    mixture, stream = data.mixture, data.mixture.streams[number]
    config, split = job.data.streams[stream.name], data.train[stream.name]
    batches = [mixture.quotas(step) for step in range(min(job.loop.steps, STEPS_LOOKED_AT))]
    quotas = [quotas[number] for quotas in batches]
    per_rank = [share for quotas in batches for share in _shares_of_ranks(quotas, number, world_size)]
    subset = f" ({'all but ' if config.rest else ''}{config.subset})" if config.subset else ""
    return StreamPlan(
        name=stream.name,
        source=f"{data.datasets[stream.name]}/{config.split}{subset}",
        role=stream.role,
        view=data.views[data.datasets[stream.name]].name,
        num_samples=stream.order.num_samples,
        per_batch=(min(quotas), max(quotas)),
        per_rank=(min(per_rank), max(per_rank)),
        seen=mixture.consumed(job.loop.steps)[number],
        num_windows=getattr(stream.order, "num_windows", None),
        num_shards=len(split.manifest.shards),
        gigabytes=sum(shard.bytes for shard in split.manifest.shards) / 1e9,
        index_megabytes=split.index.nbytes / 1e6,
    )


def _shares_of_ranks(quotas: list[int], number: int, world_size: int) -> list[int]:
    """How many samples of stream `number` each rank is dealt: slots are grouped by stream and dealt out in turn."""
    first = sum(quotas[:number])
    slots = range(first, first + quotas[number])
    return [len(range((rank - first) % world_size, len(slots), world_size)) for rank in range(world_size)]


def print_plan(plan: Plan, console: Console) -> None:
    """The plan as a table, notes and problems below it."""
    console.print(
        f"{plan.steps} steps of {plan.batch_size} samples on {plan.world_size} worker{'s' if plan.world_size > 1 else ''}"
        f" ({plan.batch_size / plan.world_size:g} each), {plan.num_parameters:,} parameters"
    )
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


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, num_texts: int) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < num_texts else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(str, row))
    return table


def _range(bounds: tuple[int, int]) -> str:
    return f"{bounds[0]}" if bounds[0] == bounds[1] else f"{bounds[0]}..{bounds[1]}"
