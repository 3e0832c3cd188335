"""From a JobConfig to the objects that train: the one place where the parts are put together."""

from dataclasses import dataclass, replace

import torch

from data.config import to_plain
from data.errors import InputError
from data.labels import LabelSpace, View
from data.loader import BatchLoader
from data.mixture import Mixture, Stream
from data.shards import ShardSplit
from models.network import SegmentationModel, build_model
from trainers.config import DataConfig, JobConfig
from trainers.flat import FlatTrainer
from trainers.ranks import Ranks

TRAINERS = {"flat": FlatTrainer}


@dataclass(frozen=True, kw_only=True)
class JobData:
    """The opened data of a job. `train` and `datasets` go with the streams of `mixture`, `val` is by dataset."""

    mixture: Mixture
    train: tuple[ShardSplit, ...]
    datasets: tuple[str, ...]
    val: dict[str, ShardSplit]

    @property
    def label_spaces(self) -> dict[str, LabelSpace]:
        return {name: split.label_space for name, split in zip(self.datasets, self.train, strict=True)}

    @property
    def views(self) -> dict[str, View]:
        return {name: space.view() for name, space in self.label_spaces.items()}


def open_data(config: DataConfig, *, seed: int) -> JobData:
    """Open every split of the mix, training and validation. Raises InputError for whatever of it cannot be used."""
    if not config.mix:
        raise InputError("data.mix: empty, expected at least one dataset; give for example 'data.mix={mydata: 8}'")
    if not config.root.is_dir():
        raise InputError(
            f"data.root={config.root}: no such folder, expected prepared datasets; run `taxomix prepare dataset=... out={config.root}`"
        )
    root = config.root
    datasets = config.stream_datasets
    train = {name: ShardSplit(root / datasets[name], stream.split) for name, stream in config.streams.items()}
    val = {dataset: ShardSplit(root / dataset, config.val_split) for dataset in dict.fromkeys(datasets.values())}
    spaces: dict[str, LabelSpace] = {}
    for name, split in [*((datasets[name], split) for name, split in train.items()), *val.items()]:
        if spaces.setdefault(name, split.label_space) != split.label_space:
            raise InputError(f"{split.location}: splits with different label spaces found, expected one; prepare the dataset again")
    streams = [
        Stream(name=name, num_samples=len(train[name]), quota=stream.samples, role=stream.role) for name, stream in config.streams.items()
    ]
    return JobData(mixture=Mixture(streams, seed=seed), train=tuple(train.values()), datasets=tuple(datasets.values()), val=val)


def check_job(job: JobConfig, *, world_size: int) -> None:
    """Find out, without training, whether `job` can run on `world_size` workers. Raises InputError."""
    data = open_data(job.data, seed=job.seed)
    data.mixture.check_world_size(world_size)
    for name, stream in job.data.streams.items():
        if stream.role != "labelled":
            raise InputError(f"data.mix.{name}.role: {stream.role} found, expected labelled; trainer={job.trainer.name} uses no other role")
    unknown = sorted(job.trainer.weights.keys() - set(data.datasets))
    if unknown:
        raise InputError(
            f"trainer.weights.{unknown[0]}: no such dataset in data.mix, expected one of {', '.join(sorted(set(data.datasets)))}"
        )


def build_loader(job: JobConfig, data: JobData, ranks: Ranks) -> BatchLoader:
    low, high = job.data.crop.scale
    crop = replace(job.data.crop, scale=(low * job.model.input_scale, high * job.model.input_scale))
    place = {"rank": ranks.rank, "world_size": ranks.world_size}
    return BatchLoader(data.mixture, data.train, data.datasets, crop, num_threads=job.data.threads, **place)


def build_trainer(job: JobConfig, views: dict[str, View], device: torch.device) -> FlatTrainer:
    """The trainer with its model, initialised from the job's seed alone: the same on every rank."""
    torch.manual_seed(job.seed)
    model = build_model(job.model, job.outputs, views).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return TRAINERS[job.trainer.name](model, job.trainer).to(device)


def checkpoint_header(job: JobConfig, data: JobData) -> dict[str, object]:
    """What a checkpoint says about itself besides the state: enough to build its model again without the data, and to tell
    other data from the same."""
    return {
        "job": to_plain(job),
        "label_spaces": {name: space.to_dict() for name, space in data.label_spaces.items()},
        "sources": _sources(job, data),
    }


def _sources(job: JobConfig, data: JobData) -> dict[str, str]:
    return {name: split.manifest.source_fingerprint for name, split in zip(job.data.streams, data.train, strict=True)}


def check_same_data(state: dict[str, object], job: JobConfig, data: JobData) -> None:
    """Raise InputError where a run would go on with other data than it was started with."""
    for name, fingerprint in _sources(job, data).items():
        if state["sources"][name] != fingerprint:  # type: ignore[index]
            folder = job.data.root / job.data.stream_datasets[name]
            raise InputError(f"{folder}: prepared anew since the run was started; choose another run.name, or restore the shards")


def model_from_checkpoint(state: dict[str, object], job: JobConfig, device: torch.device) -> SegmentationModel:
    """The model of a checkpoint, in evaluation mode."""
    entries = state["label_spaces"]
    assert isinstance(entries, dict)
    views = {name: LabelSpace.from_dict(entry, origin="checkpoint").view() for name, entry in entries.items()}
    trainer = build_trainer(job, views, device)
    trainer.load_state_dict(state["model"])  # type: ignore[arg-type]
    return trainer.model.eval()
