"""Batch normalisation over the batches of all ranks, on every backend.

torch's SyncBatchNorm knows CUDA only. This one serves gloo on the CPU, so that one and several workers train alike there too.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _SyncBatchNormFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, module: "CpuSyncBatchNorm") -> Tensor:
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
        slope = -scale * sums[0] * torch.rsqrt(var + ctx.eps) / count
        offset = -scale * sums[1] / count - slope * mean
        return grad_x.addcmul_(x, _channels(slope, x)).add_(_channels(offset, x)), grad_weight, grad_bias, None


def _channels(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.dim() - 2))


def _global_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance per channel and the number of values per channel, over all ranks."""
    num_values = x.numel() // x.shape[1]
    if num_values:
        # The kernel of BatchNorm2d itself: on channels-last maps torch.var_mean takes over twenty times as long.
        mean, var = torch.ops.aten.batch_norm_update_stats(x, None, None, 0.0)
    else:
        var = mean = x.new_zeros(x.shape[1])
    local = torch.cat([mean, var, x.new_tensor([num_values])])
    gathered = [torch.empty_like(local) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, local)
    means, variances, counts = torch.stack(gathered).split([x.shape[1], x.shape[1], 1], dim=1)
    count = counts.sum()
    mean = (means * counts).sum(dim=0) / count
    # Chan et al.'s combination: no difference of large squares.
    var = ((variances + (means - mean) ** 2) * counts).sum(dim=0) / count
    return mean, var, count


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d whose statistics in training are those of all ranks together; a rank's share may be empty."""

    @torch.no_grad()
    def update_running(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 0.0 if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(var * count / (count - 1), momentum)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        return _SyncBatchNormFunction.apply(input, self.weight, self.bias, self)


def synchronise_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace every BatchNorm2d of `model` by one whose statistics cover all ranks; parameters and buffers stay the same tensors."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for name, child in list(model.named_children()):
        if type(child) is nn.BatchNorm2d:
            synchronised = CpuSyncBatchNorm(child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats)
            synchronised._parameters, synchronised._buffers = child._parameters, child._buffers
            synchronised.train(child.training)
            setattr(model, name, synchronised)
        else:
            synchronise_batchnorm(child, device)
    return model
