"""Batch normalisation over the batches of all ranks, on every backend, and of batches that may be empty.

torch's SyncBatchNorm knows CUDA only. The one here serves gloo on the CPU too, so that one and several workers train alike there. It
also serves the parts of a model that belong to one dataset, which may have no sample on a rank or in a whole batch: torch's own
kernels end the process on an empty batch on the CPU, and its SyncBatchNorm draws the running statistics towards zero.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _SyncBatchNormFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, module: "GlobalBatchNorm2d") -> Tensor:
        mean, var, count = _global_statistics(x)
        module.update_running(mean, var, count)
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps = module.eps
        # torch's kernels divide by the batch size, and an empty share would end the process with SIGFPE.
        return torch.batch_norm(x, weight, bias, mean, var, False, 0.0, module.eps, False) if x.numel() else x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, var, count = ctx.saved_tensors
        # With the statistics held fixed; `grad_weight` and `grad_bias` are also the two sums that the rest needs.
        if x.numel():
            arguments = (grad, x, weight, mean, var, None, None, False, ctx.eps, [True, True, True])
            grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(*arguments)
        else:
            grad_x, grad_weight, grad_bias = grad.clone(), torch.zeros_like(weight), torch.zeros_like(weight)
        sums = torch.stack([grad_weight, grad_bias])
        dist.all_reduce(sums)
        # d loss / d x through mean and variance: -(gamma / sigma / n) * (sum dy + x_hat * sum dy x_hat).
        scale = weight * torch.rsqrt(var + ctx.eps)
        slope = -scale * sums[0] * torch.rsqrt(var + ctx.eps) / count.clamp(min=1)
        offset = -scale * sums[1] / count.clamp(min=1) - slope * mean
        return grad_x.addcmul_(x, _channels(slope, x)).add_(_channels(offset, x)), grad_weight, grad_bias, None


def _channels(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.dim() - 2))


def _global_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance per channel and the number of values per channel, over all ranks."""
    num_values = x.numel() // x.shape[1]
    if num_values:
        # The kernel of BatchNorm2d itself: on channels-last maps torch.var_mean takes over twenty times as long.
        # On a CPU it gives statistics in the precision of its input, which under autocast would be 8 bits.
        values = x if x.is_cuda else x.to(torch.promote_types(x.dtype, torch.float32))
        mean, var = torch.ops.aten.batch_norm_update_stats(values, None, None, 0.0)
    else:
        # At least float32, as the kernel gives them: what is gathered must be of one type on all ranks.
        var = mean = x.new_zeros(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
    local = torch.cat([mean, var, mean.new_tensor([num_values])])
    gathered = [torch.empty_like(local) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, local)
    means, variances, counts = torch.stack(gathered).split([x.shape[1], x.shape[1], 1], dim=1)
    count = counts.sum()
    mean = (means * counts).sum(dim=0) / count.clamp(min=1)
    # Chan et al.'s combination: no difference of large squares.
    var = ((variances + (means - mean) ** 2) * counts).sum(dim=0) / count.clamp(min=1)
    return mean, var, count


class EmptiableBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d that takes an empty batch: no statistic moves, and its gradients are zero."""

    def forward(self, input: Tensor) -> Tensor:
        if input.numel():
            return super().forward(input)
        return input * _channels(self.weight, input) + _channels(self.bias, input) if self.affine else input


class GlobalBatchNorm2d(EmptiableBatchNorm2d):
    """BatchNorm2d whose statistics in training are those of all ranks together; a rank's share may be empty, and so may all of them."""

    @torch.no_grad()
    def update_running(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        """Nothing moves where there is no value on any rank."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(count > 0)
        momentum = (0.0 if self.momentum is None else self.momentum) * (count > 0).to(mean.dtype)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(var * count / (count - 1).clamp(min=1), momentum)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        return _SyncBatchNormFunction.apply(input, self.weight, self.bias, self)


Replacement = Callable[[nn.BatchNorm2d], nn.Module | None]


def allow_empty_batches(module: nn.Module) -> nn.Module:
    """Replace every BatchNorm2d of a part that may see no sample of a batch; parameters and buffers stay the same tensors."""
    return _replaced(module, lambda bn: _same(EmptiableBatchNorm2d, bn) if type(bn) is nn.BatchNorm2d else None)


def synchronise_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace every BatchNorm2d of `model` by one whose statistics cover all ranks; parameters and buffers stay the same tensors."""

    def synchronised(bn: nn.BatchNorm2d) -> nn.Module | None:
        if type(bn) is EmptiableBatchNorm2d or (type(bn) is nn.BatchNorm2d and device.type != "cuda"):
            return _same(GlobalBatchNorm2d, bn)
        return nn.SyncBatchNorm.convert_sync_batchnorm(bn) if type(bn) is nn.BatchNorm2d else None

    return _replaced(model, synchronised)


def _same(cls: type[nn.BatchNorm2d], bn: nn.BatchNorm2d) -> nn.BatchNorm2d:
    new = cls(bn.num_features, bn.eps, bn.momentum, bn.affine, bn.track_running_stats)
    new._parameters, new._buffers = bn._parameters, bn._buffers
    return new.train(bn.training)


def _replaced(module: nn.Module, replacement: Replacement) -> nn.Module:
    """`module` with each BatchNorm2d replaced for which there is a replacement, itself included."""
    if isinstance(module, nn.BatchNorm2d):
        return replacement(module) or module
    for name, child in list(module.named_children()):
        new = _replaced(child, replacement)
        if new is not child:
            setattr(module, name, new)
    return module
