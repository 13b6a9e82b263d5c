"""The grid of training images."""

from types import SimpleNamespace

import numpy as np
import pytest
from toy_dataset import split_of, squares

from embedlab.workflows.images.data import TRAINING_IMAGES, log_training_images


@pytest.mark.parametrize("n_per_class", [4, 40])
def test_no_training_image_is_shown_twice(n_per_class):
    images = squares(n_per_class)
    split = split_of(images)
    figures = []
    run = SimpleNamespace(log_figure=lambda figure, path: figures.append(figure))
    log_training_images(run, images, split, augmentation="none", resolution=8)
    shown = [np.asarray(tile.get_array()).tobytes() for tile in figures[0].axes[0].images]
    assert len(shown) == len(set(shown)) == min(TRAINING_IMAGES, len(split.train))
