"""Outputs of a network: the same for any batch, in a precision that the device has."""

import numpy as np
from narrow_resnet import NARROW
from toy_dataset import PREPROCESSING, split_of, squares

from embedlab.vision.backbone import load_backbone
from embedlab.vision.inference import ImagePipeline


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
