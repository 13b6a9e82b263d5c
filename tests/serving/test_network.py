"""Preprocessing of images, as a registered model does it."""

import torch
from torchvision.models import ResNet18_Weights
from toy_dataset import MEAN, PREPROCESSING, STD

from embedlab_serving.network import Preprocessing


def test_preprocessing_is_torchvisions_own():
    images = torch.randint(0, 256, (2, 3, 300, 300), dtype=torch.uint8)
    preset = ResNet18_Weights.DEFAULT.transforms()
    ours = Preprocessing(224, 224 / 256, MEAN, STD)(images)
    # torchvision rounds to whole numbers from 0 to 255 after scaling, so half a step is allowed.
    assert (ours - preset(images)).abs().max() <= 0.51 / 255 / min(STD)


def test_an_image_of_the_right_size_is_only_normalised():
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    expected = (images / 255 - mean) / std
    torch.testing.assert_close(PREPROCESSING(images), expected)
