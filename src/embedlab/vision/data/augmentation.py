"""Random changes of training images, drawn for each image by itself.

In: a batch of uint8 squares as they are stored. Out: a batch of uint8 squares. Work is done at the
stored size where that is possible: a shift of CIFAR-10's 32 pixels costs a fraction of one at 224.
Randomness is torch's global generator, the only one that torchvision's transforms know.
"""

import torch
from torchvision.transforms import v2

from embedlab.errors import OptionError


class Augmentation:
    """One of `options.AUGMENTATIONS`, for images stored at `side` pixels.

    crop       shifted by up to an eighth, the border mirrored.
    crop_flip  crop, and half of the images mirrored.
    zoom_flip  a part of half to all of the area, enlarged, and half of the images mirrored.
    notebook   as published: RandomResizedCrop, flip, ColorJitter(hue=.05, saturation=.05). Colours
               change before the crop, at the stored size: it is the same but for rounding, and
               takes 1/49 of the time.
    """

    def __init__(self, name: str, side: int, resolution: int):
        shift = v2.RandomCrop(side, padding=max(1, side // 8), padding_mode="reflect")
        flip = v2.RandomHorizontalFlip()
        chains = {
            "none": [],
            "crop": [shift],
            "crop_flip": [shift, flip],
            "zoom_flip": [
                v2.RandomResizedCrop(resolution, scale=(0.5, 1.0), antialias=True),
                flip,
            ],
            "notebook": [
                v2.ColorJitter(hue=0.05, saturation=0.05),
                v2.RandomResizedCrop(resolution, antialias=True),
                flip,
            ],
        }
        if name not in chains:
            raise OptionError(f"augment: expected one of {', '.join(chains)}, got {name!r}")
        self._transform = v2.Compose(chains[name]) if chains[name] else None

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(batch, 3, side, side) uint8 -> the same, or (batch, 3, resolution, resolution)."""
        if self._transform is None:
            return images
        return torch.stack([self._transform(image) for image in images])
