"""Synchronised BatchNorm for CPUs: torch's own `nn.SyncBatchNorm` runs on GPUs only.

In: a network. Out: the same network, whose BatchNorm layers, while training, normalise by the mean
and variance of the whole batch, of which each rank has a share.
"""

import torch
import torch.distributed as dist
from torch import nn


def convert_sync_batchnorm(network: nn.Module, device: str) -> nn.Module:
    """The network with synchronised BatchNorm; the names and values of its state do not change."""
    if device.startswith("cuda"):
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm  # which has no other state
    return network


class SyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the images of all ranks; autograd derives its gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise x, (b, c, h, w), by the mean and variance of the images of all ranks."""
        if not self.training:
            return super().forward(x)
        # Sums of n, x and x² over the ranks, from each rank's mean and variance (Chan, Golub and
        # LeVeque, 1979), in float64, because the difference below would lose its digits in float32.
        x32 = x.float()  # (b, c, h, w)
        variance, mean = torch.var_mean(x32, dim=(0, 2, 3), correction=0)  # (c,), (c,)
        moments = torch.stack([torch.ones_like(mean), mean, variance + mean.square()])  # (3, c)
        n, sum_x, sum_x2 = _AllReduceSum.apply(moments.double() * (x.numel() / x.shape[1]))
        mean = sum_x / n
        variance = sum_x2 / n - mean.square()
        with torch.no_grad():  # torch's running variance is the unbiased one
            count = self.get_buffer("num_batches_tracked").add_(1)
            momentum = 1 / count.item() if self.momentum is None else self.momentum
            self.get_buffer("running_mean").lerp_(mean.float(), momentum)
            self.get_buffer("running_var").lerp_((variance * n / (n - 1)).float(), momentum)
        scale = (self.weight * torch.rsqrt(variance + self.eps))[:, None, None]  # (c, 1, 1)
        shift = self.bias[:, None, None] - mean[:, None, None] * scale
        return torch.addcmul(shift.float(), x32, scale.float()).to(x.dtype)  # (b, c, h, w)


class _AllReduceSum(torch.autograd.Function):
    """The sum over all ranks; its gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
        return _AllReduceSum.apply(gradient)
