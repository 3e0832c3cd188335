"""One job, as frozen dataclasses. `conf/` has a file for every choice; `data.config.build` makes this of it, once."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from data.cache import CacheConfig
from data.crop_presets import named_crop
from data.errors import FieldError, InputError
from data.mixture import WITH_LABELS
from data.order import WINDOW
from data.photometric import PhotometricConfig, named_photometric
from data.streams import FixedQuota, QuotaConfig, StreamConfig
from data.transforms import CropConfig
from models.networks import NetworkConfig
from models.outputs import OutputsConfig
from trainers.ema import EmaConfig
from trainers.flat import FlatConfig
from trainers.hierarchical import HierarchicalConfig
from trainers.mixing.config import ClassMixConfig, DacsConfig
from trainers.optim import OptimConfig
from trainers.schedule import ScheduleConfig
from trainers.update import Precision


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where a run lies: everything it writes is below dir/name, and the same name goes on where it stopped."""

    dir: Path
    name: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "dir", self.dir.absolute())  # workers run in folders of their own
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise InputError(f"run.name: {self.name!r} found, expected letters, digits, '.', '_' and '-'; choose another name")

    @property
    def folder(self) -> Path:
        return self.dir / self.name


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What a job trains on."""

    root: str
    """Folder or fsspec URL of the prepared datasets."""
    mix: tuple[str, ...] | dict[str, int | StreamConfig]
    """Stream name -> its samples in each global batch, or more about it; or the names alone, where `quota` says how many."""
    crop: str | CropConfig
    """Geometry of the training crops, or the name of a paper's (data/crop_presets.py)."""
    photometric: str | PhotometricConfig = "none"
    """What is done to colours and sharpness on the device, or the name of a preset (data/photometric.py)."""
    quota: QuotaConfig = field(default_factory=FixedQuota)
    """How many samples of each stream a global batch holds."""
    views: dict[str, str] = field(default_factory=dict)
    """Dataset -> the view of its labels that is trained and evaluated; the dataset's default where not given."""
    val_split: str = "val"
    """Split that each dataset of the mix is evaluated on; those that have none are trained on alone."""
    threads: int = 2
    """Reading threads of each worker."""
    window: int | None = WINDOW
    """Samples that are shuffled together, and so how far ahead remote shards are needed; null: the whole split."""
    max_skipped: int = 10
    """Samples that cannot be read and are passed over, for each stream and epoch; one more ends the run."""
    cache: CacheConfig = field(default_factory=CacheConfig)
    """Where copies of remote shards are kept."""

    def __post_init__(self) -> None:
        if "://" not in self.root:
            object.__setattr__(self, "root", str(Path(self.root).expanduser().absolute()))  # workers run in folders of their own
        for name, least in (("threads", 1), ("max_skipped", 0), ("window", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"data.{name}: {value} found, expected at least {least}; raise it")
        for name, entry in self.mix.items() if isinstance(self.mix, dict) else ():
            if isinstance(entry, int) and entry < 1:
                raise FieldError(f"mix.{name}", f"{entry} samples found, expected at least 1 in each global batch; remove it or raise it")
        for stream in self.streams.values():
            self.crop_of(stream), self.photometric_of(stream)  # tell of a name that is none
        sizes = sorted({self.crop_of(stream).size for stream in self.streams.values()})
        if len(sizes) > 1:
            raise InputError(f"data.mix: crops of size {' and '.join(map(str, sizes))} found, expected one for all streams; mend it")
        twice = sorted({name for name in self.mix if isinstance(self.mix, tuple) and self.mix.count(name) > 1})
        if twice:
            raise InputError(f"data.mix: {twice[0]} given twice, expected each name once; remove one")

    @property
    def streams(self) -> dict[str, StreamConfig]:
        if isinstance(self.mix, tuple):
            return {name: StreamConfig() for name in self.mix}
        return {name: StreamConfig(samples=entry) if isinstance(entry, int) else entry for name, entry in self.mix.items()}

    @property
    def stream_datasets(self) -> dict[str, str]:
        """Stream name -> name of its dataset."""
        return {name: stream.dataset or name for name, stream in self.streams.items()}

    def crop_of(self, stream: StreamConfig) -> CropConfig:
        crop = self.crop if stream.crop is None else stream.crop
        return named_crop(crop) if isinstance(crop, str) else crop

    def photometric_of(self, stream: StreamConfig) -> PhotometricConfig:
        photometric = self.photometric if stream.photometric is None else stream.photometric
        return named_photometric(photometric) if isinstance(photometric, str) else photometric

    @property
    def crops(self) -> dict[str, CropConfig]:
        """Dataset -> the crop of its first stream: whole pictures of the dataset are brought to the size that it brings them to."""
        datasets = self.stream_datasets
        return {datasets[name]: self.crop_of(stream) for name, stream in reversed(self.streams.items())}

    @property
    def hidden(self) -> set[str]:
        """Datasets of streams whose labels the trainer does not see."""
        datasets = self.stream_datasets
        return {datasets[name] for name, stream in self.streams.items() if stream.role not in WITH_LABELS}

    def location(self, dataset: str) -> str:
        """Folder or URL of a prepared dataset."""
        return f"{self.root.rstrip('/')}/{dataset}"


_EVERY = ("log_every", "evaluate_every", "checkpoint_every")


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long a job trains, how it takes a step, and how often it does what else; all in steps, each of which is one update."""

    steps: int
    precision: Precision = "fp32"
    """What the networks compute in; losses and weights are float32 whatever it is. fp16 needs, and has, a scale of the loss."""
    accumulate: int = 1
    """Global batches of a step: each is normalised by its own counts, and the mean of their gradients is applied."""
    clip_norm: float | None = None
    """The most that the norm of all gradients together may be; null: whatever it is."""
    ema: EmaConfig | None = None
    """Average of the weights that is evaluated and used in their place; null: none."""
    compile: bool = False
    """Whether torch compiles the model for training."""
    channels_last: bool = True
    """Whether the channels of a pixel lie together in memory, which convolutions are fastest on."""
    max_skipped_steps: int = 10
    """Steps in a row that may be skipped since a loss was not finite; with that many the run stops."""
    patience: int | None = None
    """Evaluations in a row without a better mean mIoU after which the run is complete; null: it takes all its steps."""
    log_every: int = 10
    evaluate_every: int = 100
    """The last step is evaluated too, whatever this says."""
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    """Newest checkpoints that stay, besides the best one."""
    overlays: int = 2
    """Pictures of each dataset's validation split that every evaluation writes and shows in TensorBoard."""

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "max_skipped_steps", "patience", *_EVERY, "keep_checkpoints"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"loop.{name}: {value} found, expected at least 1; raise it")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise InputError(f"loop.clip_norm: {self.clip_norm} found, expected a number above 0, or null; raise it")

    @property
    def batches(self) -> int:
        """Global batches of the whole job."""
        return self.steps * self.accumulate


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Where a job runs."""

    name: Literal["local", "ray", "none"]
    """local: Ray on this machine, started and stopped by the job; ray: the running cluster; none: this process, or torchrun's."""
    workers: int = 1
    """DDP workers; the global batch is dealt to them evenly. With `none`, torchrun's number counts."""
    cpus_per_worker: float = 1
    gpus_per_worker: float | None = None
    """null: 1 where there is a GPU for every worker, else 0."""
    threads_per_worker: int | None = None
    """Threads that torch computes with in each worker on a CPU; null: torch's own choice."""
    max_failures: int = 3
    """How often Ray starts the workers again, from the last checkpoint, after one of them died."""
    address: str | None = None
    """Address of the running cluster; null: the one this job was submitted to."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InputError(f"cluster.workers: {self.workers} found, expected at least 1; raise it")

    @property
    def world_size(self) -> int:
        """DDP workers that will train, torchrun's where it started this process."""
        return int(os.environ.get("WORLD_SIZE", "1")) if self.name == "none" else self.workers


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """The keys of `taxomix train`."""

    run: RunConfig
    data: DataConfig
    model: NetworkConfig
    outputs: OutputsConfig
    trainer: FlatConfig | HierarchicalConfig | ClassMixConfig | DacsConfig
    optim: OptimConfig
    schedule: ScheduleConfig
    loop: LoopConfig
    cluster: ClusterConfig
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed: {self.seed} found, expected 0 or more; choose another")


FREE_TO_CHANGE = (
    "run",
    "cluster",
    "data.root",
    "data.threads",
    "data.max_skipped",
    "data.cache",
    "loop.log_every",
    "loop.keep_checkpoints",
    "loop.overlays",
    "loop.compile",
    "loop.channels_last",
    "loop.max_skipped_steps",
    "loop.patience",
)
"""Keys in which a resumed run may differ from how it was started: they do not change what is learnt, but for its rounding and its
end."""
