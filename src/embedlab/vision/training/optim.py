"""Optimizer, learning-rate schedule and moving average of the weights, from options."""

import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from embedlab.vision.options import LinearProbeOptions
from embedlab.vision.training.recipes import FinetuneOptions

Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]


def build_optimizer(
    network: nn.Module, options: FinetuneOptions | LinearProbeOptions
) -> torch.optim.Optimizer:
    """The optimizer that `options` name, for the trainable parameters of `network`.

    Weight decay applies to parameters of two or more dimensions, not to biases and norms. torch's
    L-BFGS has no weight decay: its caller adds the penalty to the loss. Fused updates pass over the
    weights once (`benchmarks/updates.py`).
    """
    trainable = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    lr, momentum = options.lr, options.momentum
    assert lr is not None, "the options replace None"
    if options.optimizer == "lbfgs":
        return torch.optim.LBFGS(trainable, lr, line_search_fn="strong_wolfe")
    if options.optimizer == "sgd":
        nesterov = options.nesterov and momentum > 0
        sgd = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=True)
        if momentum:
            # If the gradients of the first step overflow, in float16, torch skips the step, but
            # keeps the memory that it has reserved for the momentum, whatever that contains.
            for parameter in trainable:
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    if options.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=lr, momentum=momentum)
    adam = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[options.optimizer]
    return adam(groups, lr=lr, betas=(momentum, 0.999), fused=True)


def build_schedule(
    optimizer: torch.optim.Optimizer, options: FinetuneOptions, steps_per_epoch: int
) -> lr_scheduler.LRScheduler:
    """The learning-rate schedule, to be stepped after every update."""
    n_steps = steps_per_epoch * options.epochs
    n_warmup = min(round(options.warmup * n_steps), n_steps - 1)

    def one_cycle(step: int) -> float:  # Smith and Topin 2018, piecewise linear
        if step < n_warmup:
            return (step + 1) / (n_warmup + 1)
        return max(0.0, (n_steps - step) / (n_steps - n_warmup))

    if options.schedule == "one_cycle":
        return lr_scheduler.LambdaLR(optimizer, one_cycle)
    if options.schedule == "step":
        return lr_scheduler.StepLR(optimizer, options.step_epochs * steps_per_epoch, 0.1)
    return lr_scheduler.ConstantLR(optimizer, factor=1.0)


def build_ema(network: nn.Module, decay: float) -> AveragedModel:
    """The exponential moving average of weights and buffers.

    The decay ramps up to its value, so that the initial weights count little in a short run.
    """

    def update(averaged: Tensors, current: Tensors, n_updates: torch.Tensor | int) -> None:
        n = int(average.n_averaged)  # on the CPU; reading `n_updates` would make a GPU wait
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averaged, current, n_updates)

    average = AveragedModel(network, multi_avg_fn=update, use_buffers=True)
    return average
