"""Random augmentation of training images, drawn for each image separately.

In: a batch of uint8 squares as stored, and a `torch.Generator`. Out: a batch of uint8 squares.
"""

import torch
from torchvision.transforms import v2

from embedlab.vision.seeds import seeded


def augment(
    images: torch.Tensor, name: str, resolution: int, generator: torch.Generator
) -> torch.Tensor:
    """(batch, 3, side, side) uint8 -> the same, or (batch, 3, resolution, resolution).

    name  one of `recipes.AUGMENTATIONS`:

    crop       shift by up to an eighth of the side, with a reflected border.
    crop_flip  crop, and a horizontal flip of half of the images.
    zoom_flip  RandomResizedCrop of half to all of the area, and a flip.
    notebook   the course notebook's: RandomResizedCrop, flip, ColorJitter(hue=.05, saturation=.05).
               The colours change before the crop, at the stored size: the result is equal up to
               rounding, and takes 1/49 of the time for CIFAR-10.

    Shift and flip are one gather for the whole batch. torchvision does the others, image by image.
    """
    if name == "none":
        return images
    if name in ("crop", "crop_flip"):
        return _shift(images, name == "crop_flip", generator)
    area = (0.08, 1.0) if name == "notebook" else (0.5, 1.0)
    steps = [v2.RandomResizedCrop(resolution, area), v2.RandomHorizontalFlip()]
    if name == "notebook":
        steps.insert(0, v2.ColorJitter(hue=0.05, saturation=0.05))
    transform = v2.Compose(steps)
    with seeded(int(torch.randint(2**62, (), generator=generator))):
        return torch.stack([transform(image) for image in images])


def _shift(images: torch.Tensor, with_flip: bool, generator: torch.Generator) -> torch.Tensor:
    """Shift every image by up to an eighth of its side and, `with_flip`, mirror half of them."""
    n, side = len(images), images.shape[-1]
    max_shift, last = max(1, side // 8), side - 1
    shifts = torch.randint(-max_shift, max_shift + 1, (2, n, 1), generator=generator)
    flips = torch.rand((n, 1), generator=generator) < 0.5
    # The pixel that each row and each column is taken from; reflected: -1 is 1, side is side-2.
    rows, columns = last - (last - (torch.arange(side) + shifts).abs()).abs()  # (n, side)
    if with_flip:
        columns = torch.where(flips, columns.flip(1), columns)
    index = [i.to(images.device) for i in (torch.arange(n)[:, None, None], rows, columns)]
    pixels = images.permute(0, 2, 3, 1)  # (n, side, side, 3)
    return pixels[index[0], index[1][:, :, None], index[2][:, None, :]].permute(0, 3, 1, 2)
