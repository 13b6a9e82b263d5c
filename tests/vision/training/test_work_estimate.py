"""The estimated work of a training, and cheaper settings."""

from dataclasses import replace

from embedlab.vision.training.recipes import RECIPE_FIELDS, FinetuneOptions
from embedlab.vision.training.work_estimate import cheaper_options, epoch_work


def test_cheaper_settings_are_cheaper():
    settings = dict.fromkeys(RECIPE_FIELDS) | {"recipe": "fast", "weights": "imagenet"}
    settings["backbone"] = "resnet18"
    shares = dict(cheaper_options(settings, n_train=42_500, n_val=7_500, side=32))
    assert set(shares) == {"resolution=64", "train_limit=10000", "epochs=3"}
    assert all(0 < share < 1 for share in shares.values())
    small = settings | {"epochs": 3, "resolution": (64,)}
    assert list(cheaper_options(small, n_train=5_000, n_val=500, side=32)) == []
    # `auto` chooses more epochs for fewer images; a ViT accepts only one resolution.
    by_data = settings | {"recipe": "auto"}
    of_auto = dict(cheaper_options(by_data, n_train=42_500, n_val=7_500, side=32))
    assert of_auto["train_limit=10000"] > 2 * shares["train_limit=10000"]
    of_vit = dict(cheaper_options(by_data | {"backbone": "vit_b_16"}, 42_500, 7_500, side=32))
    assert set(of_vit) == {"train_limit=10000", "epochs=3"}


def test_work_grows_with_pixels_images_and_epochs():
    options = FinetuneOptions(epochs=4, resolution=(64,))
    work = epoch_work(options, 1000, 0)
    assert work == [1000 * 64**2] * 4
    assert epoch_work(replace(options, resolution=(128,)), 1000, 0) == [4 * w for w in work]
    assert sum(epoch_work(options, 1000, 100)) > sum(work)
