"""From gradients to an update of the weights: precision, loss scale, clipping; and how to take back a step that went wrong."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device_type: str, precision: Precision) -> torch.autocast:
    """Around what networks compute, and nothing else: the backward pass follows by itself."""
    return torch.autocast(device_type, DTYPES[precision], enabled=precision != "fp32")


class Update:
    """The part of a step that is the same for all trainers: what happens to the gradients of `accumulate` global batches.

    `trainer` and `optimizer` are those of this rank; `clip_norm` bounds the norm of all gradients together.
    """

    def __init__(
        self,
        trainer: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        precision: Precision = "fp32",
        accumulate: int = 1,
        clip_norm: float | None = None,
    ) -> None:
        self.optimizer, self.accumulate, self.clip_norm = optimizer, accumulate, clip_norm
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.device = self.parameters[0].device.type
        self.precision = precision
        # Half of torch's first scale: that one times a loss of a single pixel is more than fp16 holds.
        self.scaler = torch.amp.GradScaler(self.device, init_scale=2.0**15, enabled=precision == "fp16")
        norms = [module for module in trainer.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        buffers = [buffer for module in norms for buffer in module.buffers(recurse=False)]
        self._statistics = [b for b in buffers if b.is_floating_point()], [b for b in buffers if not b.is_floating_point()]
        """Running means and variances, and counts of batches: each is copied as one list of a type."""
        self._kept = tuple([buffer.clone() for buffer in same] for same in self._statistics)

    def begin(self) -> None:
        """Before the first forward pass of a step."""
        for parameter in self.parameters:  # apex's optimizers have a `zero_grad` of another form
            parameter.grad = None
        _copy(self._statistics, self._kept)

    def autocast(self) -> torch.autocast:
        return autocast(self.device, self.precision)

    def gathering(self, losses: Callable[..., Any], *, is_last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of one global batch: gradients are summed over the ranks once, with the last."""
        return losses.no_sync() if isinstance(losses, DistributedDataParallel) and not is_last else nullcontext()

    def backward(self, objective: Tensor) -> None:
        """Add the gradients of one global batch, of `accumulate`."""
        scaled: Tensor = self.scaler.scale(objective / self.accumulate)
        scaled.backward()

    def apply(self) -> tuple[float | None, bool]:
        """Update the weights. Returns the norm of the gradient, None where it is not known, and whether it was well: where clipping
        finds a norm that is not finite, the weights stay. So they do where the scaled gradients of fp16 overflow, but that is no
        fault of the data as long as a lower scale can mend it."""
        if self.clip_norm is None and not self.scaler.is_enabled():
            self.optimizer.step()
            return None, True
        self.scaler.unscale_(self.optimizer)
        total = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        norm = float(total)  # waits for the backward pass: whether the update is made has to be known
        is_finite = math.isfinite(norm)
        is_overflow = not is_finite and self.scaler.is_enabled() and self.scaler.get_scale() > 1
        if is_finite and self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip_norm, total)
        if is_finite or self.scaler.is_enabled():  # the scaler steps where it found gradients finite, and lowers its scale where not
            self.scaler.step(self.optimizer)
            self.scaler.update(None if is_finite or is_overflow else 1.0)  # no lower: gradients would vanish, and nothing is mended
        return norm, is_finite or is_overflow

    def take_back(self) -> None:
        """Instead of `apply`: the weights stay, and BatchNorm's running statistics are again those of before the step."""
        _copy(self._kept, self._statistics)


def _copy(source: Sequence[list[Tensor]], target: Sequence[list[Tensor]]) -> None:
    for values, places in zip(source, target, strict=True):
        if values:
            torch._foreach_copy_(places, values)


class OnTheWay:
    """Values of a device that are copied to the host while the device goes on."""

    def __init__(self, values: Tensor) -> None:
        self._values = values.to("cpu", non_blocking=values.is_cuda)  # into pinned memory
        self._arrived = torch.cuda.Event() if values.is_cuda else None
        if self._arrived is not None:
            self._arrived.record()

    def get(self) -> Tensor:
        """The values, once they are there: what was queued on the device after them is not waited for."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values
