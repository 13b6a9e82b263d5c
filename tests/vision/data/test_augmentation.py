"""Preprocessing and augmentation of images."""

import numpy as np
import pytest
import torch
from torchvision.models import ResNet18_Weights
from toy_dataset import squares

from embedlab.vision.data.augmentation import augment
from embedlab.vision.training.recipes import AUGMENTATIONS
from embedlab_serving.network import Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREPROCESSING = Preprocessing(32, 1.0, MEAN, STD)


def test_preprocessing_is_torchvisions_own():
    images = torch.randint(0, 256, (2, 3, 300, 300), dtype=torch.uint8)
    preset = ResNet18_Weights.DEFAULT.transforms()
    ours = Preprocessing(224, 224 / 256, MEAN, STD)(images)
    # Theirs rounds to whole numbers of 0 to 255 after scaling: half a step, by the smallest std.
    assert (ours - preset(images)).abs().max() <= 0.51 / 255 / min(STD)


def test_an_image_of_the_right_size_is_only_normalised():
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    expected = (images / 255 - mean) / std
    torch.testing.assert_close(PREPROCESSING(images), expected)


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
    image[:, :, :4] = 255  # bright on the left, whatever the shift by one pixel is
    batch = image.repeat(40, 1, 1, 1)

    def n_bright_right(name):
        changed = augment(batch, name, 32, torch.Generator().manual_seed(0)).float()
        return int((changed[..., 4:].mean((1, 2, 3)) > changed[..., :4].mean((1, 2, 3))).sum())

    assert n_bright_right("crop") == 0
    assert 5 < n_bright_right("crop_flip") < 35
