"""Recipes: their values, what `auto` chooses by the data, and the start of its head."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from narrow_resnet import NARROW
from synthetic_images import split_of, squares

from embedlab.errors import OptionError
from embedlab.vision.backbone import attach_head, load_backbone
from embedlab.vision.features import extract_features
from embedlab.vision.inference import Classifier
from embedlab.vision.training.linear_probe import probe_head, probe_logits
from embedlab.vision.training.recipes import (
    AUTO,
    BY_DATA,
    FAST,
    NOTEBOOK,
    RECIPE_FIELDS,
    DataFacts,
    FinetuneOptions,
    explain_auto,
    make_options,
    resolve_options,
)
from embedlab.vision.training.trainer import Trainer

RESOLUTION = 32


PHOTOS = (96, 128, 160)


def test_a_batch_larger_than_the_data_has_the_rate_of_the_data():
    for n_train in (172, 1_500):
        facts = DataFacts(n_train, 256)
        larger = make_options("auto", facts, batch_size=4_096)
        whole = make_options("auto", facts, batch_size=n_train)
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
        (20_000, 32, 128, 3e-4, 8, AUTO.resolution),
        (42_500, 32, 128, 3e-4, 8, AUTO.resolution),
        (1_000_000, 256, 128, 3e-4, 8, (128, 160, 224, 224)),
    ],
)
def test_the_choice_follows_the_data(n_train, side, batch_size, lr, epochs, resolution):
    options = make_options("auto", DataFacts(n_train, side))
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
    settings = dict.fromkeys(BY_DATA) | {"lr": lr, "weights": "imagenet"}
    sentence = explain_auto(n_train, side, settings, options)
    assert f"for {n_train:,} training images of {side} px: " in sentence
    # What was given is not explained.
    assert all((f"{name}=" in sentence) == (name != "lr") for name in BY_DATA)


def test_random_weights_have_nothing_to_probe_or_to_keep():
    options = make_options("auto", DataFacts(500, 32, is_pretrained=False))
    assert (options.head, options.batch_norm) == ("random", "update")
    sentence = explain_auto(500, 32, dict.fromkeys(BY_DATA) | {"weights": "none"}, options)
    assert "head=random (random weights)" in sentence


def test_without_facts_it_has_the_values_for_cifar_10():
    assert make_options("auto") == make_options("auto", DataFacts(42_500, 32)) == AUTO


def test_a_given_value_counts_for_the_others():
    options = make_options("auto", DataFacts(4_000, 128), batch_size=32)
    assert (options.batch_size, options.lr) == (32, 3e-4 * 32 / 128)
    options = make_options("auto", DataFacts(4_000, 128), optimizer="sgd", epochs=2)
    assert (options.lr, options.epochs, options.resolution) == (0.01, 2, (128, 160))
    assert make_options("auto", DataFacts(4_000, 128), lr=0.5).lr == 0.5
    assert make_options("auto", DataFacts(10_000, 128), freeze="none").epochs == 8


def test_only_stages_that_the_backbone_has_are_kept():
    assert make_options("auto", DataFacts(4_000, 128, has_stages=False)).freeze == "none"
    settings = dict.fromkeys(("recipe", *RECIPE_FIELDS)) | {"recipe": "auto", "weights": "imagenet"}
    for backbone, kept in (("resnet50", "stage2"), ("convnext_tiny", "none")):
        options = resolve_options(settings | {"backbone": backbone}, n_train=4_000, side=128)
        assert options.freeze == kept


def test_a_backbone_of_one_resolution_has_that_one():
    assert make_options("auto", DataFacts(4_000, 32, 224)).resolution == (224,)


def test_the_other_recipes_do_not_look_at_the_data():
    assert make_options("fast", DataFacts(50, 8)) == FinetuneOptions()
    assert make_options("notebook", DataFacts(50, 8)).epochs == 15


def start_of(
    epochs: int = 1, lr: float = 0.01, batch_norm: str = "update"
) -> tuple[Trainer, np.ndarray]:
    """A trainer whose head is the linear probe, and that probe's logits of validation images."""
    images = squares()
    split = split_of(images)
    changes = {"epochs": epochs, "lr": lr, "batch_norm": batch_norm, "optimizer": "sgd"}
    facts = DataFacts(60, 8)
    options = make_options("auto", facts, **changes, resolution=(RESOLUTION,), flip_view=False)
    backbone = load_backbone(NARROW, "none", seed=1)
    model = Classifier(backbone.network, backbone.preprocessing(RESOLUTION, 1.0))
    head, seconds = probe_head(backbone, model, images, split)
    assert seconds > 0
    features = extract_features(backbone.digest, model, images, split)
    assert features is not None and features.was_cached
    logits = probe_logits(head, features.parts["val"])
    attach_head(backbone, head)
    return Trainer(model, images, split, options, seed=0), logits


def test_epoch_0_is_the_linear_probe():
    trainer, logits = start_of()
    start = next(trainer.train())
    assert start.record.epoch == 0
    assert set(start.record.metrics) == {"val/loss", "val/accuracy"}
    # The same numbers in another order: float32 has seven digits.
    expected = torch.from_numpy(logits).double().softmax(1).numpy()
    assert start.predictions.probabilities == pytest.approx(expected, abs=1e-5)
    assert trainer.best.epoch == 0


def test_a_training_that_only_spoils_the_network_returns_the_start():
    trainer, _ = start_of(epochs=2, lr=3.0)
    start, *others = trainer.train()
    assert [epoch.record.epoch for epoch in others] == [1, 2]
    best = max(epoch.record.metrics["val/accuracy"] for epoch in (start, *others))
    assert trainer.best.score.accuracy == best
    found = trainer.classifier.predict(trainer.images, trainer.split.val)
    assert found.score == trainer.best.score
    if trainer.best.epoch == 0:
        assert np.array_equal(found.probabilities, start.predictions.probabilities)


def test_a_resumed_training_does_not_repeat_its_start():
    whole, _ = start_of(epochs=2)
    assert [epoch.record.epoch for epoch in whole.train()] == [0, 1, 2]
    stopped, _ = start_of(epochs=2)
    epochs = stopped.train()
    next(epochs)
    resumed, _ = start_of(epochs=2)
    resumed.load_state(stopped.state())
    assert [epoch.record.epoch for epoch in resumed.train()] == [1, 2]
    for one, other in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("batch_norm", ["keep", "update"])
def test_statistics_of_batch_norm_are_kept_and_its_weights_are_trained(batch_norm):
    trainer, _ = start_of(batch_norm=batch_norm)
    norm = trainer.network.get_submodule("layer2.0.bn1")
    mean, weight = norm.running_mean.clone(), norm.weight.detach().clone()
    epochs = trainer.train()
    next(epochs), next(epochs)
    assert torch.equal(norm.running_mean, mean) == (batch_norm == "keep")
    assert not torch.equal(norm.weight, weight)


# -- options ----------------------------------------------------------------------------------


def test_the_notebook_recipe_is_the_published_one():
    assert (NOTEBOOK.optimizer, NOTEBOOK.lr, NOTEBOOK.momentum) == ("sgd", 0.001, 0.9)
    assert (NOTEBOOK.schedule, NOTEBOOK.step_epochs, NOTEBOOK.epochs) == ("step", 7, 15)
    assert (NOTEBOOK.batch_size, NOTEBOOK.resolution, NOTEBOOK.crop_pct) == (64, (224,), 0.875)
    assert (NOTEBOOK.weight_decay, NOTEBOOK.ema, NOTEBOOK.label_smoothing) == (0, 0, 0)


def test_auto_takes_the_recipes_value_and_the_rest_is_changed():
    options = make_options("fast", lr=0.5, momentum=None)
    assert (options.lr, options.momentum) == (0.5, FAST.momentum)
    # Fewer epochs than resolutions: the last stay.
    assert make_options("fast", epochs=2).resolution == FAST.resolution[-2:]


def test_resolutions_rise_evenly_over_the_epochs():
    options = make_options("fast", epochs=6, resolution=(64, 96, 128))
    assert [options.resolution_at(e) for e in range(1, 7)] == [64, 64, 96, 96, 128, 128]
    assert [replace(options, epochs=4).resolution_at(e) for e in range(1, 5)] == [64, 64, 96, 128]


def test_more_resolutions_than_epochs_are_refused():
    with pytest.raises(OptionError, match="resolution: expected at most one for each of 3 epochs"):
        replace(make_options("fast", epochs=3), resolution=(64,) * 4)
