"""Outputs of a network: the same for any batch, in a precision that the device has."""

from dataclasses import replace

import numpy as np
import pytest
from narrow_resnet import NARROW
from torch import nn
from toy_dataset import PREPROCESSING, split_of, squares

from embedlab.vision.backbone import load_backbone
from embedlab.vision.inference import ImagePipeline


@pytest.mark.parametrize(("resolution", "largest"), [(224, 12), (448, 3)])
def test_large_images_go_through_the_network_in_smaller_batches(monkeypatch, resolution, largest):
    sizes = []

    class Counted(nn.Module):
        def forward(self, batch):
            sizes.append(len(batch))
            return batch.mean((2, 3))

    monkeypatch.setattr("embedlab.vision.inference.BATCH_SIZE", 12)
    images = squares()
    preprocessing = replace(PREPROCESSING, resolution=resolution)
    outputs = ImagePipeline(Counted(), preprocessing).compute_outputs(images, np.arange(13))
    assert (outputs.shape, sum(sizes), max(sizes)) == ((13, 3), 13, largest)


def test_outputs_do_not_depend_on_the_batch_size(monkeypatch):
    images = squares()
    rows = split_of(images).train
    backbone = load_backbone(NARROW, "none", seed=1)
    pipeline = ImagePipeline(backbone.network, PREPROCESSING)
    monkeypatch.setattr("embedlab.vision.inference.BATCH_SIZE", 64)
    together = pipeline.compute_outputs(images, rows)
    monkeypatch.setattr("embedlab.vision.inference.BATCH_SIZE", 1)
    alone = pipeline.compute_outputs(images, rows)
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-4)  # sums in another order
