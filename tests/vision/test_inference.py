"""Outputs of a network: the same for any batch, in a precision that the device has."""

import numpy as np
import pytest
from narrow_resnet import NARROW
from toy_dataset import PREPROCESSING, split_of, squares

from embedlab.errors import OptionError
from embedlab.vision.backbone import load_backbone
from embedlab.vision.inference import ImagePipeline, choose_precision


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


def test_precisions_that_the_cpu_lacks_are_refused():
    assert choose_precision("auto", "cpu") in ("float32", "bfloat16")
    with pytest.raises(OptionError, match="float16 needs a GPU"):
        choose_precision("float16", "cpu")
