"""One job, as frozen dataclasses. `conf/` has a file for every choice; `data.config.build` makes this of it, once."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.errors import InputError
from data.mixture import StreamConfig
from data.transforms import CropConfig
from models.network import NetworkConfig
from models.outputs import OutputsConfig
from trainers.flat import FlatConfig
from trainers.optim import OptimConfig, ScheduleConfig


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

    root: Path
    """Folder of the prepared datasets."""
    mix: dict[str, int | StreamConfig]
    """Stream name -> its samples in each global batch, or more about it."""
    crop: CropConfig
    val_split: str = "val"
    """Split that each dataset of the mix is evaluated on."""
    threads: int = 2
    """Reading threads of each worker."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", self.root.absolute())  # workers run in folders of their own
        if self.threads < 1:
            raise InputError(f"data.threads: {self.threads} found, expected at least 1; raise it")

    @property
    def streams(self) -> dict[str, StreamConfig]:
        return {name: StreamConfig(samples=entry) if isinstance(entry, int) else entry for name, entry in self.mix.items()}

    @property
    def stream_datasets(self) -> dict[str, str]:
        """Stream name -> name of its dataset."""
        return {name: stream.dataset or name for name, stream in self.streams.items()}


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long a job trains and how often it does what else; all in steps of one global batch."""

    steps: int
    log_every: int = 10
    evaluate_every: int = 100
    """The last step is evaluated too, whatever this says."""
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    """Newest checkpoints that stay, besides the best one."""
    overlays: int = 2
    """Pictures of each dataset's validation split that every evaluation writes and shows in TensorBoard."""

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "evaluate_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise InputError(f"loop.{name}: {getattr(self, name)} found, expected at least 1; raise it")


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


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """The keys of `taxomix train`."""

    run: RunConfig
    data: DataConfig
    model: NetworkConfig
    outputs: OutputsConfig
    trainer: FlatConfig
    optim: OptimConfig
    schedule: ScheduleConfig
    loop: LoopConfig
    cluster: ClusterConfig
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed: {self.seed} found, expected 0 or more; choose another")


FREE_TO_CHANGE = ("run", "cluster", "data.root", "data.threads", "loop.log_every", "loop.keep_checkpoints", "loop.overlays")
"""Keys in which a resumed run may differ from how it was started: they do not change what is learnt."""
