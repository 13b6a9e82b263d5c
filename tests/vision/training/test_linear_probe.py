"""The linear probe against scikit-learn, and how its best epoch is kept."""

import math

import numpy as np
import pytest
import torch
from narrow_resnet import NARROW
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from toy_dataset import CLASSES, blobs

from embedlab.errors import DivergedError
from embedlab.vision.backbone import load_backbone
from embedlab.vision.data.images import ImageDataset
from embedlab.vision.data.splits import Split
from embedlab.vision.features import Features
from embedlab.vision.inference import ImagePipeline
from embedlab.vision.options import LINEAR_PROBE_LR, LinearProbeOptions
from embedlab.vision.training.linear_probe import LinearProbe, probe_head, probe_logits


def fit(options, train=None, val=None):
    """The fitted probe and its epochs."""
    (x, y), (x_val, y_val) = train or blobs(), val or blobs(150, seed=1)
    features = Features({"train": x, "val": x_val}, key="", was_cached=False, seconds=0.0)
    labels = np.concatenate([y, y_val])
    rows, pixels = np.arange(len(labels)), np.empty((0, 3, 8, 8), np.uint8)
    images = ImageDataset("blobs", CLASSES, pixels, labels, {}, digest="", fingerprints=rows)
    split = Split(rows[: len(y)], rows[len(y) :], rows[:0], digest="")
    probe = LinearProbe(features, images, split, options, 0, "cpu")
    return probe, list(probe.train())


def test_lbfgs_is_scikit_learns_logistic_regression():
    decay, (x, y) = 0.01, blobs()
    probe, _ = fit(LinearProbeOptions("lbfgs", weight_decay=decay, epochs=15), (x, y))
    standardised = (x - x.mean(0)) / x.std(0, ddof=1)
    oracle = LogisticRegression(C=1 / (decay * len(x)), tol=1e-8, max_iter=1000)
    oracle.fit(standardised, y)
    ours = softmax(probe_logits(probe.head(), x), axis=1)
    # The best epoch by validation need not be the last; both have converged to three digits.
    np.testing.assert_allclose(ours, oracle.predict_proba(standardised), atol=2e-3)


@pytest.mark.parametrize("optimizer", LINEAR_PROBE_LR)
def test_the_loss_falls_and_the_best_epoch_is_kept(optimizer):
    lr = None if optimizer == "lbfgs" else 0.05
    probe, epochs = fit(LinearProbeOptions(optimizer, lr, batch_size=32, epochs=8))
    assert [epoch.record.epoch for epoch in epochs] == list(range(1, 9))
    assert epochs[-1].record.metrics["train/loss"] < math.log(3) / 2
    scores = [epoch.predictions.score for epoch in epochs]
    assert [s.accuracy for s in scores] == [e.record.metrics["val/accuracy"] for e in epochs]
    assert [s.loss for s in scores] == [e.record.metrics["val/loss"] for e in epochs]
    assert probe.best.score == scores[probe.best.epoch - 1]
    assert not any(score.beats(probe.best.score) for score in scores)
    # The rows in the data set, after the 300 training rows.
    assert epochs[0].predictions.rows.tolist() == list(range(300, 450))
    # The folded layer of plain features predicts what the standardised one did.
    x, _ = blobs(150, seed=1)
    expected = epochs[probe.best.epoch - 1].predictions.probabilities
    probabilities = softmax(probe_logits(probe.head(), x), axis=1)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-3, atol=1e-3)


def test_of_epochs_with_equal_accuracy_the_one_with_the_lowest_loss_is_kept():
    apart = blobs(60)[0] + 100 * np.eye(6, dtype=np.float32)[np.arange(60) % 3], np.arange(60) % 3
    probe, epochs = fit(LinearProbeOptions(epochs=15), apart, apart)
    assert {epoch.record.metrics["val/accuracy"] for epoch in epochs} == {1.0}
    assert probe.best.epoch == 15
    assert probe.best.score == (1.0, min(epoch.record.metrics["val/loss"] for epoch in epochs))


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_a_probe_of_few_images_leaves_its_start(optimizer):
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    features = rng.normal(size=(90, 512)) + 3 * rng.normal(size=(3, 512))[labels] / 512**0.25
    one = features.astype(np.float32), labels
    _, epochs = fit(LinearProbeOptions(optimizer), one, one)
    # Chance is ln 3 = 1.1. With one update per epoch, as for 90 images in one batch, the loss ends
    # at 0.059, with eleven at 0.004.
    assert epochs[-1].record.metrics["train/loss"] < 0.02


def halves(n: int, is_mirrored_alike: bool) -> ImageDataset:
    """Images with a dark and a light half: side by side, or one above the other."""
    labels = np.arange(n) % 2
    images = np.random.default_rng(0).integers(0, 60, (n, 3, 16, 16), dtype=np.uint8)
    images[labels == 0, :, :, :8] += 150
    images[labels == 1, :, :, 8:] += 150
    if is_mirrored_alike:
        images = np.ascontiguousarray(images.swapaxes(2, 3))
    parts, fingerprints = {"train": n, "test": 0}, np.arange(n)
    digest = f"halves-{is_mirrored_alike}"
    return ImageDataset("halves", ("a", "b"), images, labels, parts, digest, fingerprints)


@pytest.mark.parametrize("is_mirrored_alike", [True, False])
def test_a_probe_says_whether_mirrored_images_are_other_images(is_mirrored_alike):
    images, rows = halves(160, is_mirrored_alike), np.arange(160)
    split = Split(rows[:80], rows[80:140], rows[140:], digest="halves")
    backbone = load_backbone(NARROW, "none", seed=1)
    pipeline = ImagePipeline(backbone.network, backbone.preprocessing(32, 1.0), flip_view=True)
    probed = probe_head(backbone, pipeline, images, split, compares_mirrored=True)
    assert probed.is_mirror_sensitive != is_mirrored_alike
    again = probe_head(backbone, pipeline, images, split)
    assert not again.is_mirror_sensitive
    assert torch.equal(again.head.weight, probed.head.weight)


def test_a_probe_that_diverges_says_so():
    with pytest.raises(DivergedError, match=r"not finite after epoch 1.*lr=1e"):
        fit(LinearProbeOptions("sgd", lr=1e38))


def test_each_optimizer_has_its_own_learning_rate():
    assert LinearProbeOptions("sgd").lr == 0.01
    assert LinearProbeOptions("sgd", 0.5).lr == 0.5
