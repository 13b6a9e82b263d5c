"""Augmentation of images: different for each image, the same for each seed."""

import numpy as np
import pytest
import torch
from toy_dataset import squares

from embedlab.vision.data.augmentation import augment
from embedlab.vision.training.recipes import AUGMENTATIONS


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentation_differs_by_image_and_repeats_by_seed(name):
    images = torch.from_numpy(np.repeat(squares(n_per_class=1).pixels[:1], 12, axis=0))
    once = augment(images, name, 24, torch.Generator().manual_seed(0))
    assert torch.equal(augment(images, name, 24, torch.Generator().manual_seed(0)), once)
    assert once.dtype == torch.uint8
    assert once.shape[-1] == (24 if name in ("zoom_flip", "notebook") else 8)
    n_different = len({image.numpy().tobytes() for image in once})
    assert n_different == 1 if name == "none" else n_different > 1


def test_crop_does_not_mirror_and_crop_flip_does():
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    image[:, :, :4] = 255  # bright on the left, also after a shift by one pixel
    batch = image.repeat(40, 1, 1, 1)

    def n_bright_right(name):
        changed = augment(batch, name, 32, torch.Generator().manual_seed(0)).float()
        return int((changed[..., 4:].mean((1, 2, 3)) > changed[..., :4].mean((1, 2, 3))).sum())

    assert n_bright_right("crop") == 0
    assert 5 < n_bright_right("crop_flip") < 35
