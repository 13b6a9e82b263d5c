"""Frozen features: the penultimate layer, cached by all that the features depend on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from narrow_resnet import N_FEATURES, NARROW, narrow_resnet18
from toy_dataset import PREPROCESSING, split_of, squares, tampered

from embedlab.datasets.cache import cache_folder
from embedlab.vision.backbone import load_backbone
from embedlab.vision.features import extract_features, features_key
from embedlab.vision.inference import ImagePipeline

IMAGES = squares()
SPLIT = split_of(IMAGES)


@pytest.fixture
def backbone():
    return load_backbone(NARROW, "none", seed=1)


def extract(backbone, images=IMAGES, flip_view=False):
    pipeline = ImagePipeline(backbone.network, PREPROCESSING, flip_view=flip_view)
    return extract_features(backbone.digest, pipeline, images, SPLIT)


def test_extraction_changes_neither_weights_nor_statistics(backbone):
    backbone.network.train()
    before = {key: value.clone() for key, value in backbone.network.state_dict().items()}
    extract(backbone)
    after = backbone.network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(parameter.grad is None for parameter in backbone.network.parameters())


def test_features_are_the_penultimate_layer(backbone):
    features = extract(backbone).parts["val"]
    assert features.shape == (len(SPLIT.val), N_FEATURES)
    plain = narrow_resnet18()
    plain.fc = torch.nn.Identity()
    plain.load_state_dict(backbone.network.state_dict())
    images = torch.from_numpy(IMAGES.pixels[SPLIT.val])
    with torch.inference_mode():
        expected = plain.eval()(PREPROCESSING(images)).numpy()
    # Convolutions in float32 add in an order that depends on the batch size.
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)


def test_test_time_augmentation_is_the_mean_of_an_image_and_its_mirror_image(backbone):
    mirrored = replace(IMAGES, pixels=IMAGES.pixels[..., ::-1].copy(), digest="mirrored")
    both = extract(backbone, flip_view=True).parts["test"]
    plain, flipped = (extract(backbone, p).parts["test"] for p in (IMAGES, mirrored))
    np.testing.assert_allclose(both, (plain + flipped) / 2, rtol=1e-4, atol=1e-4)


def test_a_second_run_reads_the_cache(backbone, monkeypatch):
    first = extract(backbone)

    def forbidden(*_, **__):
        raise AssertionError("computed again")

    moved = []
    monkeypatch.setattr(ImagePipeline, "compute_outputs", forbidden)
    monkeypatch.setattr(backbone.network, "to", moved.append)
    second = extract(backbone)
    assert moved == ["cpu"]  # as after computing: the caller may go on with the network
    assert (first.was_cached, second.was_cached) == (False, True)
    assert second.seconds == first.seconds
    assert all(np.array_equal(first.parts[part], second.parts[part]) for part in first.parts)


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda content: content[:10],
        lambda content: content[:-1],
        lambda content: content.replace(b"seconds.npy", b"secondz.npy"),
        tampered,
    ],
)
def test_features_that_are_damaged_in_the_cache_are_computed_again(backbone, damage):
    first = extract(backbone)
    (file,) = cache_folder().rglob("features.npz")
    file.write_bytes(damage(file.read_bytes()))
    again = extract(backbone)
    assert not again.was_cached
    assert all(np.array_equal(first.parts[part], again.parts[part]) for part in first.parts)
    assert extract(backbone).was_cached


def test_the_key_changes_with_everything_that_matters(backbone):
    pipeline = ImagePipeline(backbone.network, PREPROCESSING)
    usual = ("weights", pipeline, IMAGES, SPLIT)
    preprocessings = (
        replace(PREPROCESSING, resolution=48),
        replace(PREPROCESSING, crop_pct=0.9),
        replace(PREPROCESSING, mean=(0.5, 0.5, 0.5)),
    )
    changes = [
        (0, "other weights"),
        *((1, replace(pipeline, preprocessing=other)) for other in preprocessings),
        (1, replace(pipeline, precision="bfloat16")),
        (1, replace(pipeline, flip_view=True)),
        (2, replace(IMAGES, digest="other data")),
        (3, replace(SPLIT, train=SPLIT.train[1:])),
    ]
    keys = {features_key(*usual)}
    for position, value in changes:
        keys.add(features_key(*usual[:position], value, *usual[position + 1 :]))
    assert len(keys) == 1 + len(changes)
    assert features_key(*usual) in keys
