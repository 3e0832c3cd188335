"""From a JobConfig to the objects that train: the one place where the parts are put together."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.config import to_plain
from data.errors import InputError, NoSuchSplitError
from data.labels import LabelSpace, View
from data.loader import BatchLoader, StreamSource
from data.mixture import WITH_LABELS, Mixture
from data.shards import ShardSplit
from data.streams import StreamConfig, build_mixture, unsupervised_classes
from models.model import SegmentationModel, build_model
from trainers.base import Trainer
from trainers.checkpoint import weights_of
from trainers.config import DataConfig, JobConfig
from trainers.flat import FlatTrainer
from trainers.hierarchical import HierarchicalTrainer
from trainers.mixing.trainer import MixTrainer
from trainers.optim import optimizer_problems
from trainers.ranks import Ranks
from trainers.schedule import schedule_notes, schedule_problems
from trainers.weights import check_weights

log = logging.getLogger(__name__)

TRAINERS: dict[str, type[Trainer]] = {
    "flat": FlatTrainer,
    "hierarchical": HierarchicalTrainer,
    "classmix": MixTrainer,
    "dacs": MixTrainer,
}


@dataclass(frozen=True, kw_only=True)
class JobData:
    """The opened data of a job: `train` by stream, `views` and `val` by dataset; a dataset without that split is not in `val`."""

    mixture: Mixture
    train: dict[str, ShardSplit]
    datasets: dict[str, str]
    """Stream -> its dataset."""
    views: dict[str, View]
    val: dict[str, ShardSplit]

    @property
    def label_spaces(self) -> dict[str, LabelSpace]:
        return {self.datasets[stream]: split.label_space for stream, split in self.train.items()}


def open_data(job: JobConfig) -> JobData:
    """Open every split of the mix, training and validation. Raises InputError for whatever of it cannot be used."""
    config = job.data
    if not config.mix:
        raise InputError("data.mix: empty, expected at least one dataset; give for example 'data.mix={mydata: 8}'")
    if "://" not in config.root and not Path(config.root).is_dir():
        raise InputError(
            f"data.root={config.root}: no such folder, expected prepared datasets; run `taxomix prepare dataset=... out={config.root}`"
        )
    datasets = config.stream_datasets
    opened: dict[tuple[str, str], ShardSplit] = {}
    for name, stream in config.streams.items():
        place = (datasets[name], stream.split)
        if place not in opened:  # streams of one split share its open files
            opened[place] = ShardSplit(config.location(datasets[name]), stream.split, cache=config.cache)
    train = {name: opened[datasets[name], stream.split] for name, stream in config.streams.items()}
    val = _open_val(config, dict.fromkeys(datasets.values()))
    spaces: dict[str, LabelSpace] = {}
    for name, split in [*((datasets[name], split) for name, split in train.items()), *val.items()]:
        if spaces.setdefault(name, split.label_space) != split.label_space:
            raise InputError(f"{split.location}: splits with different label spaces found, expected one; prepare the dataset again")
    unknown = sorted(config.views.keys() - spaces.keys())
    if unknown:
        raise InputError(f"data.views.{unknown[0]}: no such dataset in data.mix, expected one of {', '.join(spaces)}; remove it")
    views = {name: space.view(config.views.get(name)) for name, space in spaces.items()}
    stream_views = {name: views[dataset] for name, dataset in datasets.items()}
    for name, stream in config.streams.items():
        if stream.rare_classes is not None:  # for a class that teaches nothing no picture is drawn more often
            stream_views[name] = stream_views[name].without(job.outputs.silent(datasets[name], stream_views[name]))
    mixture = build_mixture(config.streams, train, stream_views, seed=job.seed, quota=config.quota, window=config.window)
    return JobData(mixture=mixture, train=train, datasets=datasets, views=views, val=val)


def _open_val(config: DataConfig, datasets: Iterable[str]) -> dict[str, ShardSplit]:
    val = {}
    for dataset in datasets:
        try:
            split = ShardSplit(config.location(dataset), config.val_split, cache=config.cache)
        except NoSuchSplitError:
            continue
        if split.label_space.supervision != "none":
            val[dataset] = split
    if not val:
        raise InputError(
            f"data.val_split={config.val_split}: no dataset of the mix has it with labels, expected at least one to be evaluated; "
            "prepare it, or name another split"
        )
    return val


def check_job(job: JobConfig) -> None:
    """Find out, without training, whether `job` can run. Raises InputError with the first of what keeps it from that."""
    data = open_data(job)
    for problem in find_problems(job, data):
        raise InputError(problem)
    for note in (*job.outputs.notes(data.views), *schedule_notes(job.schedule, job.loop.steps)):
        log.warning("%s", note)


RESTORE = "restore the shards, or run `taxomix prepare ... overwrite=true`"


def find_problems(job: JobConfig, data: JobData) -> Iterator[str]:
    """All that keeps `job` from running, each a line with its remedy; `train` and `plan` ask the same questions."""
    try:
        data.mixture.check_world_size(job.cluster.world_size)
    except InputError as error:
        yield str(error)
    try:
        check_weights(job, data.views)
    except InputError as error:
        yield str(error)
    if job.cluster.name != "ray" or torch.cuda.is_available():  # the head of a cluster may have none of what its workers have
        yield from optimizer_problems(job.optim)
    yield from schedule_problems(job.schedule, job.loop.steps)
    for name, stream in job.data.streams.items():
        yield from _stream_problems(job, data, name, stream)
    yield from _role_problems(job, data)
    for dataset, view in data.views.items():
        if len(untaught(data, dataset)) < view.num_classes:
            continue
        if any(stream.role in WITH_LABELS for stream in data.mixture.streams if data.datasets[stream.name] == dataset):
            yield f"data.views.{dataset}: view {view.name} has no class that a pixel or box of its streams is of; choose another"
        elif not job.outputs.shares_labels:
            yield (
                f"outputs={job.outputs.name}: no stream with labels of {dataset} found, and no other dataset's labels teach its classes; "
                "give outputs=universal or hierarchy, where datasets share them, or a stream of it with labels"
            )
    yield from job.trainer.problems(job.outputs, data.views, job.data.hidden)
    for name, split in data.train.items():
        number, text = _lost(split)
        if number > job.data.max_skipped:
            yield f"data.mix.{name}: {text}, data.max_skipped={job.data.max_skipped} are passed over; {RESTORE}"
        elif number:
            log.warning("data.mix.%s: %s; they will be passed over", name, text)
    for name, split in data.val.items():  # scores on a part of them would not compare
        number, text = _lost(split)
        if number:
            yield f"{name} {job.data.val_split}: {text}, expected all of them; {RESTORE}"


def _role_problems(job: JobConfig, data: JobData) -> Iterator[str]:
    """Where a role that the trainer needs has no stream: without it, it would be another trainer."""
    if job.trainer.roles == WITH_LABELS:
        return
    for role in job.trainer.roles:
        if all(stream.role != role for stream in data.mixture.streams):
            streams = ", ".join(f"{stream.name} ({stream.role})" for stream in data.mixture.streams)
            yield f"data.mix: {streams} found, expected a stream of role {role} for trainer={job.trainer.name}; add one, or trainer=flat"


def _stream_problems(job: JobConfig, data: JobData, name: str, stream: StreamConfig) -> Iterator[str]:
    """Where the trainer cannot use a stream, or its pictures would be resized twice."""
    if stream.role not in job.trainer.roles:
        roles = " or ".join(job.trainer.roles)
        yield f"data.mix.{name}.role: {stream.role} found, expected {roles}; trainer={job.trainer.name} uses no other"
    if stream.role in WITH_LABELS and data.train[name].label_space.supervision == "none":
        yield f"data.mix.{name}: a dataset without labels found, expected labels; remove the stream"
    if job.data.crop_of(stream).resize is not None and job.model.input_scale != 1:
        yield (
            f"model.input_scale: {job.model.input_scale:g} found, expected 1 where the crop of data.mix.{name} has a resize, since "
            "both would resize its pictures; remove model.input_scale, or give the smaller size as resize.size"
        )


def _lost(split: ShardSplit) -> tuple[int, str]:
    """How many samples of a split lie in shards that are gone or cut short, and a text that says so."""
    lost = split.count_lost()
    number = sum(lost.values())
    names = ", ".join(list(lost)[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
    return number, f"{number} samples lie in shards that are gone or cut short ({split.location}: {names})"


def untaught(data: JobData, dataset: str) -> list[str]:
    """Classes of a dataset's view that no stream of the mix has labels of."""
    streams = [stream.name for stream in data.mixture.streams if data.datasets[stream.name] == dataset and stream.role in WITH_LABELS]
    splits = [data.train[name] for name in streams if data.train[name].label_space.supervision != "none"]
    return unsupervised_classes(data.views[dataset], splits)


def class_pixels(data: JobData, dataset: str) -> np.ndarray:
    """(num_classes,) int64: pixels of each class of a dataset's view in the splits that its streams are of, by their index."""
    splits = {id(split): split for stream, split in data.train.items() if data.datasets[stream] == dataset}
    by_id = np.sum([split.labels().total() for split in splits.values()], axis=0)
    return data.views[dataset].count(by_id)


def build_loader(job: JobConfig, data: JobData, ranks: Ranks) -> BatchLoader:
    crops = {name: job.data.crop_of(stream).scaled_by(job.model.input_scale) for name, stream in job.data.streams.items()}
    sources = [StreamSource(dataset=data.datasets[name], split=split, crop=crops[name]) for name, split in data.train.items()]
    return BatchLoader(
        data.mixture,
        sources,
        rank=ranks.rank,
        world_size=ranks.world_size,
        num_threads=job.data.threads,
        max_skipped=job.data.max_skipped,
        pin_memory=ranks.device.type == "cuda",
    )


def build_trainer(job: JobConfig, views: dict[str, View], device: torch.device) -> Trainer:
    """The trainer with its model, initialised from the job's seed alone: the same on every rank."""
    torch.manual_seed(job.seed)
    layout = torch.channels_last if job.loop.channels_last else torch.contiguous_format
    model = build_model(job.model, job.outputs, views).to(device, memory_format=layout)  # type: ignore[call-overload]
    trainer = TRAINERS[job.trainer.name](model, job.trainer).to(device)
    trainer.seed = job.seed
    return trainer


def checkpoint_header(job: JobConfig, data: JobData) -> dict[str, object]:
    """What a checkpoint says about itself besides the state: enough to build its model again without the data, and to tell
    other data from the same."""
    return {
        "job": to_plain(job),
        "label_spaces": {name: space.to_dict() for name, space in data.label_spaces.items()},
        "sources": _sources(data),
    }


def _sources(data: JobData) -> dict[str, str]:
    return {name: split.manifest.source_fingerprint for name, split in data.train.items()}


def check_same_data(state: dict[str, object], job: JobConfig, data: JobData) -> None:
    """Raise InputError where a run would go on with other data than it was started with."""
    for name, fingerprint in _sources(data).items():
        if state["sources"][name] != fingerprint:  # type: ignore[index]
            raise InputError(
                f"{job.data.location(data.datasets[name])}: prepared anew since the run was started; choose another run.name, or "
                "restore the shards"
            )


def model_from_checkpoint(
    state: dict[str, object], job: JobConfig, device: torch.device, *, averaged: bool = True, teacher: bool = False
) -> SegmentationModel:
    """The model of a checkpoint, in evaluation mode; with the averaged weights of a run that keeps some (`loop.ema`), if `averaged`. With
    `teacher` that of the run's teacher."""
    entries = state["label_spaces"]
    assert isinstance(entries, dict)
    views = {name: LabelSpace.from_dict(entry, origin="checkpoint").view(job.data.views.get(name)) for name, entry in entries.items()}
    trainer = build_trainer(job, views, device)
    trainer.load_state_dict(weights_of(state, averaged=averaged))
    if teacher and "teacher" not in trainer.companions:
        raise InputError(
            f"teacher=true: a run of trainer={job.trainer.name} without one found, expected classmix or dacs with a mask; remove teacher="
        )
    return (trainer.companions["teacher"] if teacher else trainer.model).eval()
