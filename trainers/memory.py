"""How much memory a job's step and evaluation take, found out without training: they are gone through with tensors that have no values."""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from data.shards import ShardSplit
from data.transforms import CropConfig, whole_size
from data.types import Batch
from models.model import SegmentationModel
from trainers.base import Trainer
from trainers.config import JobConfig
from trainers.job import JobData
from trainers.optim import SgdConfig
from trainers.step import local_sums, objective
from trainers.update import autocast


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Bytes of tensors on the device of one worker, at the most."""

    weights: int
    """Parameters and buffers."""
    state: int
    """Of the optimizer, and averaged weights."""
    step: int
    """What a step holds besides: its samples, what the backward pass needs of the forward pass, and gradients."""
    evaluation: int
    """What the evaluation of the largest picture holds besides weights and state; with averaged weights also those in training."""

    @property
    def total(self) -> int:
        return self.weights + self.state + max(self.step, self.evaluation)


def plan_memory(job: JobConfig, data: JobData, trainer: Trainer) -> MemoryPlan | None:
    """For `trainer`, as `build_trainer` makes it on the CPU; it has no values afterwards. None where a part of it cannot be gone through
    without values, or the samples cannot be dealt to the workers."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if data.mixture.batch_size % job.cluster.world_size:
        return None
    seeds = torch.arange(data.mixture.batch_size // job.cluster.world_size)  # have values: the host draws from them
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        trainer._apply(lambda tensor: mode.from_tensor(tensor).to(device))  # type: ignore[no-untyped-call]
        try:
            return MemoryPlan(
                weights=_bytes(trainer.state_dict()),
                state=_state_bytes(job, trainer),
                step=_step_bytes(job, data, trainer, device, seeds),
                evaluation=_evaluation_bytes(job, data, trainer, device),
            )
        except RuntimeError:  # what asks for a value raises one
            return None


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _trained_bytes(trainer: Trainer) -> int:
    return _bytes({name: parameter for name, parameter in trainer.named_parameters() if parameter.requires_grad})


def _state_bytes(job: JobConfig, trainer: Trainer) -> int:
    moments = (1 if job.optim.momentum else 0) if isinstance(job.optim, SgdConfig) else 2
    return moments * _trained_bytes(trainer) + (0 if job.loop.ema is None else _bytes(trainer.state_dict()))


def _step_bytes(job: JobConfig, data: JobData, trainer: Trainer, device: torch.device, seeds: Tensor) -> int:
    batch = _largest_share(job, data, seeds).to(device)

    def gradients() -> None:
        for _ in range(min(job.loop.accumulate, 2)):  # from the second on gradients are there from the start
            with autocast(device.type, job.loop.precision):
                terms = trainer.losses(batch)
            objective(terms, local_sums(terms)[1], 1).backward()

    inputs = _bytes({"images": batch.images, "labels": batch.labels})
    return inputs + max(peak_of(gradients), _trained_bytes(trainer))


def _largest_share(job: JobConfig, data: JobData, seeds: Tensor) -> Batch:
    """Without values, but for the seeds: the samples of that worker, in the first global batch, whose logits are the largest."""
    draws = [data.mixture.draws(0, rank=rank, world_size=job.cluster.world_size) for rank in range(job.cluster.world_size)]
    streams = [[data.mixture.streams[draw.stream] for draw in share] for share in draws]
    share = max(streams, key=lambda share: sum(data.views[data.datasets[stream.name]].num_classes for stream in share))
    height, width = next(job.data.crop_of(stream).scaled_by(job.model.input_scale).size for stream in job.data.streams.values())
    names, roles = [data.datasets[stream.name] for stream in share], [stream.role for stream in share]
    return Batch(
        images=torch.empty(len(share), height, width, 3, dtype=torch.uint8).permute(0, 3, 1, 2),
        labels=torch.empty(len(share), height, width, dtype=torch.uint8),
        rows={name: torch.empty(names.count(name), dtype=torch.int64) for name in data.views},
        roles={role: torch.empty(roles.count(role), dtype=torch.int64) for role in dict.fromkeys(roles)},
        streams=torch.empty(len(share), dtype=torch.int64),
        seeds=seeds,
        sample_ids=("",) * len(share),
        step=0,
        slots=tuple((data.datasets[stream.name], stream.role) for stream in share),  # as if there were no other: nobody is to be asked
    )


def _evaluation_bytes(job: JobConfig, data: JobData, trainer: Trainer, device: torch.device) -> int:
    model = trainer.model.eval()
    peaks = [0]
    for name, split in data.val.items():
        if len(split):
            peaks.append(peak_of(partial(_predict, model, name, _largest_picture(split), job.data.crops[name], device)))
    model.train()
    return max(peaks) + (0 if job.loop.ema is None else _bytes(trainer.state_dict()))


@torch.no_grad()
def _predict(model: SegmentationModel, dataset: str, size: tuple[int, int], crop: CropConfig, device: torch.device) -> None:
    shown = whole_size(crop, *size, input_scale=model.input_scale)
    row = torch.zeros(1, dtype=torch.int64, device=device)
    model.outputs.predict(model(torch.empty(1, 3, *shown, dtype=torch.uint8, device=device), {dataset: row}, size=size)[dataset], dataset)


def _largest_picture(split: ShardSplit) -> tuple[int, int]:
    heights, widths = (split.index[side].to_numpy().astype(int) for side in ("height", "width"))
    largest = int((heights * widths).argmax())
    return int(heights[largest]), int(widths[largest])


def peak_of(function: Callable[[], None]) -> int:
    """The most bytes of tensors that are made by `function` and alive at one time."""
    with _Live() as live:
        function()
    return live.peak


class _Live(TorchDispatchMode):
    """Counts the memory of tensors made inside: from the operation that makes it until nobody holds it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {_memory_of(value)._cdata for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor) and (memory := _memory_of(value))._cdata not in inputs:
                self._add(memory)
        return out

    def _add(self, memory: torch.UntypedStorage) -> None:
        key, size = memory._cdata, memory.nbytes()
        if key not in self._known:
            self._known[key] = weakref.ref(memory, partial(self._gone, key, size))
            self.now += size
            self.peak = max(self.peak, self.now)

    def _gone(self, key: int, size: int, _: Any) -> None:
        self.now -= size
        del self._known[key]


def _memory_of(tensor: Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()
