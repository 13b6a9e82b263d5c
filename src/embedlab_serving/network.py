"""A classifier of torchvision: the preprocessing of its images, and its last layer.

For training and for the served model. Needs torch and torchvision only.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torchvision.transforms.v2 import functional as F


@dataclass(frozen=True)
class Preprocessing:
    """Deterministic preprocessing of a batch on its device: scale, centre crop, normalise.

    In: (batch, 3, side, side) uint8 squares. Out: (batch, 3, resolution, resolution) float32,
    normalised by the constants of the weights.

    crop_pct  side of the crop divided by the side before it: 224 / 256 in torchvision, 1: no crop.
    """

    resolution: int
    crop_pct: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        side = round(self.resolution / self.crop_pct)
        batch = F.to_dtype(images, torch.float32, scale=True)  # uint8 -> 0 to 1
        if batch.shape[-1] != side:
            batch = F.resize(batch, [side, side], antialias=True)  # (batch, 3, side, side)
        batch = F.center_crop(batch, [self.resolution, self.resolution])
        batch = F.normalize(batch, self.mean, self.std)
        return batch.contiguous(memory_format=torch.channels_last)


def forward(network: nn.Module, batch: torch.Tensor, flip_view: bool) -> torch.Tensor:
    """The network's output for images (b, 3, r, r): (b, outputs).

    flip_view  test-time augmentation: the mean output for the images and for their mirror images.
    """
    output = network(batch)
    return (output + network(batch.flip(-1))) / 2 if flip_view else output


def head_name(network: nn.Module) -> str:
    """The name of the last linear layer, which gives the logits: `fc`, `classifier.1`, …"""
    modules = network.named_modules()
    return [name for name, module in modules if isinstance(module, nn.Linear)][-1]
