"""Benchmark of a training step with fused updates, and with torch's updates of tensor by tensor.

    python -m benchmarks.updates [--rounds 9]

ResNet-18 with random weights, on random images; the two optimizers take turns in every round.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.timing import Report, seconds_of_calls, take_turns
from embedlab.device import choose_precision
from embedlab.vision.backbone import attach_head, load_backbone, new_head
from embedlab.vision.training.optim import build_optimizer
from embedlab.vision.training.recipes import FinetuneOptions

SETTINGS = (("sgd", 32, 32), ("adamw", 16, 128), ("adamw", 128, 96))  # images, side in pixels
STEPS = 3  # of a round


def training_step(optimizer_name: str, images: torch.Tensor, fused: bool) -> Callable[[], None]:
    """One update of a network of its own."""
    backbone = load_backbone("resnet18", "none", 0)
    network: nn.Module = attach_head(backbone, new_head(backbone, 10, 0))
    network.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(network, FinetuneOptions(optimizer=optimizer_name, lr=1e-4))
    for group in optimizer.param_groups:
        group["fused"] = fused
    labels = torch.arange(len(images)) % 10
    precision = getattr(torch, choose_precision("auto", "cpu"))

    def step() -> None:
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            logits = network(images)
        optimizer.zero_grad()
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    report = Report("A training step of ResNet-18")
    for name, n_images, pixels in SETTINGS:
        images = torch.randn(n_images, 3, pixels, pixels).to(memory_format=torch.channels_last)
        steps = {fused: training_step(name, images, fused) for fused in (False, True)}
        for step in steps.values():
            step()  # a first step also allocates the optimizer's state
        sides = {
            str(fused): partial(seconds_of_calls, step, STEPS) for fused, step in steps.items()
        }
        seconds = take_turns(sides, rounds)
        plain, fused = ([1e3 * s for s in seconds[side]] for side in sides)
        label = f"{name}, {n_images} images of {pixels} px"
        report.add(f"{label}, tensor by tensor", plain, "ms")
        ratio = statistics.median(fused) / statistics.median(plain)
        report.add(f"{label}, fused", fused, "ms", ratio)
    report.show()


if __name__ == "__main__":
    main()
