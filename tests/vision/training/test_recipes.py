"""Recipes: their values, and what `auto` chooses by the data."""

from dataclasses import replace

import pytest

from embedlab.errors import OptionError
from embedlab.vision.training.recipes import (
    CHOSEN_BY_AUTO,
    FAST,
    NOTEBOOK,
    RECIPE_FIELDS,
    FinetuneOptions,
    explain_auto,
    resolve_options,
)

PHOTOS = (96, 128, 160)


def make_options(recipe: str, n_train: int = 50, side: int = 8, **changes: object):
    settings = {"backbone": "resnet18", "weights": "imagenet", "recipe": recipe}
    return resolve_options(dict.fromkeys(RECIPE_FIELDS) | settings | changes, n_train, side)


def test_a_batch_larger_than_the_data_has_the_rate_of_the_data():
    for n_train in (172, 1_500):
        larger = make_options("auto", n_train, 256, batch_size=4_096)
        whole = make_options("auto", n_train, 256, batch_size=n_train)
        assert (larger.lr, larger.epochs) == (whole.lr, whole.epochs)


@pytest.mark.parametrize(
    ("n_train", "side", "batch_size", "lr", "epochs", "resolution"),
    [
        (60, 128, 16, 3e-5, 40, (128,)),
        (172, 256, 16, 3e-5, 12, (224,)),
        (999, 8, 32, 6e-5, 8, (64,)),
        (1_000, 8, 32, 0.0025, 10, (64,)),
        (3_058, 128, 128, 3e-4, 13, PHOTOS),
        (4_250, 32, 128, 3e-4, 12, PHOTOS),
        (19_999, 32, 128, 3e-4, 12, PHOTOS),
        (20_000, 32, 128, 3e-4, 8, FAST.resolution),
        (42_500, 32, 128, 3e-4, 8, FAST.resolution),
        (1_000_000, 256, 128, 3e-4, 8, (128, 160, 224, 224)),
    ],
)
def test_auto_chooses_by_number_and_size_of_the_images(
    n_train, side, batch_size, lr, epochs, resolution
):
    options = make_options("auto", n_train, side)
    assert (options.batch_size, options.epochs) == (batch_size, epochs)
    assert options.lr == lr
    assert options.resolution == resolution
    assert options.head == "linear_probe"
    assert options.batch_norm == ("keep" if n_train < 1_000 else "update")
    is_tiny = side == 8
    assert options.augment == ("crop_flip" if n_train < 1_000 or is_tiny else "zoom_flip")
    assert options.optimizer == ("sgd" if n_train >= 1_000 and is_tiny else "adamw")
    kept = "none" if n_train < 1_000 or is_tiny else "stage2" if n_train < 20_000 else "stem"
    assert options.freeze == kept
    settings = dict.fromkeys(CHOSEN_BY_AUTO) | {"lr": lr, "weights": "imagenet"}
    sentence = explain_auto(n_train, side, settings, options)
    assert f"for {n_train:,} training images of {side} px: " in sentence
    # Values that the user gave are not explained.
    assert all((f"{name}=" in sentence) == (name != "lr") for name in CHOSEN_BY_AUTO)


def test_images_that_may_not_be_mirrored_are_not_unless_the_user_says_so():
    settings = dict.fromkeys(("recipe", *RECIPE_FIELDS))
    settings |= {"recipe": "auto", "weights": "imagenet", "backbone": "resnet18"}
    options = resolve_options(settings, 500, 32, is_mirror_sensitive=True)
    assert (options.augment, options.flip_view) == ("crop", False)
    explained = explain_auto(500, 32, settings, options)
    assert explained.count("(the linear probe recognises mirrored images less well)") == 2
    for given in ({"flip_view": True}, {"augment": "zoom_flip"}, {"recipe": "fast"}):
        options = resolve_options(settings | given, 500, 32, is_mirror_sensitive=True)
        usual = resolve_options(settings | given, 500, 32)
        for name in given:
            assert getattr(options, name) == getattr(usual, name)
    assert options == usual


def test_random_weights_have_nothing_to_probe_or_to_keep():
    options = make_options("auto", 500, 32, weights="none")
    assert (options.head, options.batch_norm) == ("random", "update")
    sentence = explain_auto(500, 32, dict.fromkeys(CHOSEN_BY_AUTO) | {"weights": "none"}, options)
    assert "head=random (random weights)" in sentence


def test_auto_changes_five_values_of_fast_for_cifar_10():
    changes = {"head": "linear_probe", "optimizer": "adamw", "lr": 3e-4, "freeze": "stem"}
    expected = replace(FAST, recipe="auto", augment="zoom_flip", **changes)
    assert make_options("auto", 42_500, 32) == expected


def test_a_given_value_counts_for_the_others():
    options = make_options("auto", 4_000, 128, batch_size=32)
    assert (options.batch_size, options.lr) == (32, 3e-4 * 32 / 128)
    options = make_options("auto", 4_000, 128, optimizer="sgd", epochs=2)
    assert (options.lr, options.epochs, options.resolution) == (0.01, 2, (128, 160))
    assert make_options("auto", 4_000, 128, lr=0.5).lr == 0.5
    assert make_options("auto", 10_000, 128, freeze="none").epochs == 8


def test_only_stages_that_the_backbone_has_are_kept():
    assert make_options("auto", 4_000, 128, backbone="convnext_tiny").freeze == "none"
    settings = dict.fromkeys(("recipe", *RECIPE_FIELDS)) | {"recipe": "auto", "weights": "imagenet"}
    for backbone, kept in (("resnet50", "stage2"), ("convnext_tiny", "none")):
        options = resolve_options(settings | {"backbone": backbone}, n_train=4_000, side=128)
        assert options.freeze == kept


def test_a_backbone_of_one_resolution_has_that_one():
    assert make_options("auto", 4_000, 32, backbone="vit_b_16").resolution == (224,)


def test_the_other_recipes_do_not_look_at_the_data():
    assert make_options("fast", 50, 8) == FinetuneOptions()
    assert make_options("notebook", 50, 8).epochs == 15


# -- options ----------------------------------------------------------------------------------


def test_the_notebook_recipe_is_the_published_one():
    assert (NOTEBOOK.optimizer, NOTEBOOK.lr, NOTEBOOK.momentum) == ("sgd", 0.001, 0.9)
    assert (NOTEBOOK.schedule, NOTEBOOK.step_epochs, NOTEBOOK.epochs) == ("step", 7, 15)
    assert (NOTEBOOK.batch_size, NOTEBOOK.resolution, NOTEBOOK.crop_pct) == (64, (224,), 0.875)
    assert (NOTEBOOK.weight_decay, NOTEBOOK.ema, NOTEBOOK.label_smoothing) == (0, 0, 0)


def test_auto_takes_the_recipes_value_and_the_rest_is_changed():
    options = make_options("fast", lr=0.5, momentum=None)
    assert (options.lr, options.momentum) == (0.5, FAST.momentum)
    # With fewer epochs than resolutions, the last resolutions are kept.
    assert make_options("fast", epochs=2).resolution == FAST.resolution[-2:]


def test_resolutions_rise_evenly_over_the_epochs():
    options = make_options("fast", epochs=6, resolution=(64, 96, 128))
    assert [options.resolution_at(e) for e in range(1, 7)] == [64, 64, 96, 96, 128, 128]
    assert [replace(options, epochs=4).resolution_at(e) for e in range(1, 5)] == [64, 64, 96, 128]


def test_more_resolutions_than_epochs_are_refused():
    with pytest.raises(OptionError, match="resolution: expected at most one for each of 3 epochs"):
        replace(make_options("fast", epochs=3), resolution=(64,) * 4)
