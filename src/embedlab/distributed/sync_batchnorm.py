"""Training by several processes, each with a share of every batch, as if it were by one.

In: a network. Out: the same, whose BatchNorm sees the whole batch, and gradients that are those of
the whole batch. torch's own SyncBatchNorm is for GPUs alone.
"""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional as F

from embedlab.distributed.collectives import all_gather, all_reduce_sum


def convert_sync_batchnorm(network: nn.Module) -> None:
    """Let its BatchNorm layers see the images of all processes. Names of weights stay."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm  # which has no other state


def all_reduce_gradients(
    parameters: Iterable[nn.Parameter], *numbers: torch.Tensor
) -> torch.Tensor:
    """Replace gradients by their sums over all processes; gives those of the numbers, float32.

    One message a step: the gradients are small beside the work that they take on a CPU, so nothing
    is gained by sending the first while the last are computed.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    both = [*gradients, *numbers]
    message = all_reduce_sum(torch.cat([part.reshape(-1).float() for part in both]))
    sums = message.split([part.numel() for part in both])
    for gradient, found in zip(gradients, sums, strict=False):
        gradient.copy_(found.view_as(gradient))
    return torch.cat(sums[len(gradients) :])


class SyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm whose mean and variance, while training, are those of all processes' images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        with torch.no_grad():
            mean, variance, n = global_moments(x)
            self.num_batches_tracked += 1
            # As torch has it: the running variance is the unbiased one.
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (n / (n - 1)), self.momentum)
        return _Normalise.apply(x, self.weight, self.bias, mean, variance, n, self.eps)


def global_moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """(b, c, h, w), of each process its own -> mean (c,), biased variance (c,), number of pixels.

    From each process's own mean and variance (Chan, Golub and LeVeque, 1979), in float64.
    """
    variance, mean = torch.var_mean(x.float(), dim=(0, 2, 3), correction=0)  # (c,), (c,)
    n = torch.full_like(mean, x.numel() / x.shape[1])
    n, mean, variance = all_gather(torch.stack([n, mean, variance]).double()).unbind(
        1
    )  # (ranks, c)
    share = n / n.sum(0)
    mean_of_all = (share * mean).sum(0)
    variance_of_all = (share * (variance + (mean - mean_of_all).square())).sum(0)
    return mean_of_all.float(), variance_of_all.float(), n[:, 0].sum().item()


class _Normalise(torch.autograd.Function):
    """y = w (x − m) / s + b, where m and s² are the mean and variance of all processes' x."""

    @staticmethod
    def forward(ctx, x, weight, bias, mean, variance, n, eps):
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.n, ctx.eps = n, eps
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx, dy):
        x, weight, mean, variance = ctx.saved_tensors
        inverse_std = torch.rsqrt(variance + ctx.eps)  # (c,)
        normalised = (x.float() - _wide(mean)).mul_(_wide(inverse_std))  # (b, c, h, w)
        dy32 = dy.float()
        d_bias = dy32.sum((0, 2, 3))
        d_weight = (dy32 * normalised).sum((0, 2, 3))
        # dx = w/s (dy − mean(dy) − x̂ mean(dy·x̂)), with means over all processes' pixels; d_weight
        # and d_bias are this process's alone, and summed with all other gradients.
        mean_dy, mean_dy_x = (
            all_reduce_sum(torch.stack([d_bias, d_weight]).double()) / ctx.n
        ).float()
        dx = dy32 - normalised.mul_(_wide(mean_dy_x)).add_(_wide(mean_dy))
        dx.mul_(_wide(weight * inverse_std))
        return dx.to(x.dtype), d_weight, d_bias, None, None, None, None


def _wide(channels: torch.Tensor) -> torch.Tensor:
    return channels[:, None, None]  # (c,) -> (c, 1, 1)
