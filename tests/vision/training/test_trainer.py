"""Fine-tuning: which parts are trained, and that a resumed training ends with the same weights."""

import math
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from unittest.mock import Mock, PropertyMock, patch

import numpy as np
import pytest
import torch
from narrow_resnet import NARROW
from toy_dataset import PREPROCESSING, split_of, squares

from embedlab.errors import DataError, DivergedError
from embedlab.progress import EpochRecord
from embedlab.vision.backbone import attach_head, load_backbone, new_head
from embedlab.vision.data.batches import iter_batches
from embedlab.vision.evaluation.metrics import AccuracyAndLoss, Predictions
from embedlab.vision.features import extract_features
from embedlab.vision.inference import ImagePipeline
from embedlab.vision.options import FREEZE
from embedlab.vision.training import trainer as trainer_module
from embedlab.vision.training.checkpoint import Checkpoints
from embedlab.vision.training.epochs import ValidatedEpoch
from embedlab.vision.training.linear_probe import probe_head, probe_logits
from embedlab.vision.training.recipes import (
    OPTIMIZERS,
    RECIPE_FIELDS,
    FinetuneOptions,
    resolve_options,
)
from embedlab.vision.training.trainer import Trainer
from embedlab.vision.training.work_estimate import epoch_work

RESOLUTION = PREPROCESSING.resolution
SHORT = FinetuneOptions(epochs=3, batch_size=16, resolution=(RESOLUTION,), augment="crop")
# Enough images and epochs for BatchNorm's running statistics to follow.
MANY, LONGER = squares(n_per_class=80), replace(SHORT, epochs=6, batch_size=8, ema=0.0)
FEW = squares(n_per_class=24)
STEPS = 2  # of an epoch: 36 training images in batches of 16, the last incomplete one dropped


def network(n_classes: int = 3, seed: int = 1) -> torch.nn.Module:
    backbone = load_backbone(NARROW, "none", seed=seed)
    return attach_head(backbone, new_head(backbone, n_classes, seed=seed))


def trainer_of(
    options: FinetuneOptions = SHORT, net=None, precision="float32", images=FEW, seed=0
) -> Trainer:
    pipeline = ImagePipeline(net or network(), PREPROCESSING, "cpu", precision, options.flip_view)
    return Trainer(pipeline, images, split_of(images), options, seed)


def train(*arguments, **options) -> tuple[Trainer, list[ValidatedEpoch]]:
    """A finished training, and its epochs."""
    trainer = trainer_of(*arguments, **options)
    return trainer, list(trainer.train())


def weights(net: torch.nn.Module) -> dict[str, bytes]:
    return {key: value.numpy().tobytes() for key, value in net.state_dict().items()}


# -- the loop ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def longer() -> tuple[Trainer, list[ValidatedEpoch]]:
    return train(LONGER, images=MANY)


def test_colours_are_learnt_and_every_epoch_is_reported(longer):
    trainer, epochs = longer
    assert [epoch.record for epoch in epochs] == trainer.history
    assert [record.epoch for record in trainer.history] == list(range(1, 7))
    for record in trainer.history:
        names = {"train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr"}
        assert set(record.metrics) == names | {"time/waiting_share"}
        assert 0 < record.metrics["time/waiting_share"] < 1
        assert all(map(math.isfinite, record.metrics.values()))
        assert record.seconds > 0
    scores = [score_of(record) for record in trainer.history]
    assert [epoch.predictions.score for epoch in epochs] == scores
    assert [score.accuracy for score in scores].count(1.0) > 1
    of_equals = min(score for score in scores if score.accuracy == 1.0)
    assert trainer.best.score == of_equals == scores[trainer.best.epoch - 1]


def score_of(record: EpochRecord) -> AccuracyAndLoss:
    return AccuracyAndLoss(record.metrics["val/accuracy"], record.metrics["val/loss"])


def test_the_network_has_the_weights_of_the_best_epoch(longer):
    trainer, _ = longer
    again = trainer.pipeline.predict(MANY, split_of(MANY).val)
    assert again.score == trainer.best.score
    assert not trainer.network.training


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    once, again, other = (train(seed=seed)[0] for seed in (0, 0, 1))
    assert weights(once.network) == weights(again.network)
    assert weights(other.network) != weights(once.network)


def test_a_training_neither_uses_nor_changes_torchs_global_generator():
    options = replace(SHORT, epochs=1, augment="zoom_flip")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, _ = train(options)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert weights(train(options)[0].network) == weights(one.network)


def test_progress_adds_up_to_the_whole():
    reports = []
    list(trainer_of().train(lambda done, total, detail: reports.append((done, total))))
    done, totals = zip(*reports, strict=True)
    assert list(done) == sorted(done)
    assert set(totals) == {done[-1]}
    assert done[-1] == sum(epoch_work(SHORT, n_train=STEPS * 16, n_val=18))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_loss_that_is_not_finite_names_the_step_and_the_rate(optimizer):
    # Adam's steps have the length of the rate for any gradient, so the rate has to be huge.
    options = replace(SHORT, optimizer=optimizer, lr=1e30, ema=0.0)
    with pytest.raises(DivergedError, match=r"not finite at step \d+ \(epoch 1\).*lr=1e\+29"):
        train(options)


def test_an_epoch_is_validated_at_its_own_resolution():
    sides = []
    compute_outputs = ImagePipeline.compute_outputs

    def watched(pipeline, *arguments):
        sides.append(pipeline.preprocessing.resolution)
        return compute_outputs(pipeline, *arguments)

    with patch.object(ImagePipeline, "compute_outputs", watched):
        train(replace(SHORT, resolution=(32, 40), epochs=4))
    assert sides == [32, 32, 40, 40]


def test_only_an_epoch_of_the_last_resolution_can_be_the_best():
    scores = [AccuracyAndLoss(accuracy, 0.0) for accuracy in (0.9, 0.5, 0.7, 0.6)]
    with patch.object(Predictions, "score", PropertyMock(side_effect=scores)):
        trainer, _ = train(replace(SHORT, resolution=(32, 40), epochs=4))
    assert (trainer.best.epoch, trainer.best.score.accuracy) == (3, 0.7)


# -- what is trained ---------------------------------------------------------------------------


@pytest.mark.parametrize("freeze", FREEZE)
def test_frozen_layers_do_not_change_nor_do_their_statistics(freeze):
    parts = ["conv1 bn1", "layer1", "layer2", "layer3", "layer4", "fc"]
    n_frozen = list(FREEZE).index(freeze)
    net = network()
    before = weights(net)
    train(replace(SHORT, epochs=1, freeze=freeze, ema=0.0), net)
    after = weights(net)
    changed = {key.partition(".")[0] for key in before if before[key] != after[key]}
    assert changed == set(" ".join(parts[n_frozen:]).split())


def test_mixed_precision_keeps_the_weights_in_float32():
    trainer, _ = train(precision="bfloat16")
    assert {value.dtype for value in trainer.network.parameters()} == {torch.float32}


# -- the start as the linear probe ---------------------------------------------------------------


def start_of(
    epochs: int = 1, lr: float = 0.01, batch_norm: str = "update"
) -> tuple[Trainer, np.ndarray]:
    """A trainer whose head is the linear probe, and that probe's logits of validation images."""
    images = squares()
    split = split_of(images)
    changes = {"epochs": epochs, "lr": lr, "batch_norm": batch_norm, "optimizer": "sgd"}
    changes |= {"recipe": "auto", "resolution": (RESOLUTION,), "flip_view": False}
    changes |= {"backbone": "resnet18", "weights": "imagenet"}
    options = resolve_options(dict.fromkeys(RECIPE_FIELDS) | changes, n_train=60, side=8)
    backbone = load_backbone(NARROW, "none", seed=1)
    pipeline = ImagePipeline(backbone.network, backbone.preprocessing(RESOLUTION, 1.0))
    head, seconds, is_mirror_sensitive = probe_head(backbone, pipeline, images, split)
    assert seconds > 0
    assert not is_mirror_sensitive
    features = extract_features(backbone.digest, pipeline, images, split)
    assert features is not None and features.was_cached
    logits = probe_logits(head, features.parts["val"])
    attach_head(backbone, head)
    return Trainer(pipeline, images, split, options, seed=0), logits


def test_epoch_0_is_the_linear_probe():
    trainer, logits = start_of()
    start = next(trainer.train())
    assert start.record.epoch == 0
    assert set(start.record.metrics) == {"val/loss", "val/accuracy"}
    # The same sums in another order, in float32, which has seven digits.
    expected = torch.from_numpy(logits).double().softmax(1).numpy()
    assert start.predictions.probabilities == pytest.approx(expected, abs=1e-5)
    assert trainer.best.epoch == 0


def test_a_training_that_only_spoils_the_network_returns_the_start():
    trainer, _ = start_of(epochs=2, lr=3.0)
    start, *others = trainer.train()
    assert [epoch.record.epoch for epoch in others] == [1, 2]
    best = max(epoch.record.metrics["val/accuracy"] for epoch in (start, *others))
    assert trainer.best.score.accuracy == best
    predictions = trainer.pipeline.predict(trainer.images, trainer.split.val)
    assert predictions.score == trainer.best.score
    if trainer.best.epoch == 0:
        assert np.array_equal(predictions.probabilities, start.predictions.probabilities)


def test_a_resumed_training_does_not_repeat_its_start():
    whole, _ = start_of(epochs=2)
    assert [epoch.record.epoch for epoch in whole.train()] == [0, 1, 2]
    stopped, _ = start_of(epochs=2)
    epochs = stopped.train()
    next(epochs)
    resumed, _ = start_of(epochs=2)
    resumed.load_state(stopped.state())
    assert [epoch.record.epoch for epoch in resumed.train()] == [1, 2]
    assert weights(resumed.network) == weights(whole.network)


@pytest.mark.parametrize("batch_norm", ["keep", "update"])
def test_statistics_of_batch_norm_are_kept_and_its_weights_are_trained(batch_norm):
    trainer, _ = start_of(batch_norm=batch_norm)
    norm = trainer.network.get_submodule("layer2.0.bn1")
    mean, weight = norm.running_mean.clone(), norm.weight.detach().clone()
    epochs = trainer.train()
    next(epochs), next(epochs)
    assert torch.equal(norm.running_mean, mean) == (batch_norm == "keep")
    assert not torch.equal(norm.weight, weight)


# -- stopped and continued ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "precision", "stopped_after"),
    [
        ({}, "float32", 0),
        ({}, "bfloat16", 1),
        ({"optimizer": "adamw", "ema": 0.0, "augment": "notebook"}, "float32", 2),
        ({"optimizer": "rmsprop", "schedule": "step", "step_epochs": 1}, "float32", 1),
    ],
)
def test_a_resumed_training_ends_with_the_same_weights_bit_for_bit(
    changes, precision, stopped_after
):
    options = replace(SHORT, lr=0.003, **changes)
    whole, _ = train(options, precision=precision)

    checkpoints = Checkpoints("stopped")
    stopped = trainer_of(options, precision=precision)
    checkpoints.save(stopped.state())
    for epoch in islice(stopped.train(), stopped_after):
        checkpoints.save(stopped.state())
        assert epoch.record == stopped.history[-1]

    resumed = trainer_of(options, network(seed=9), precision, seed=12345)
    resumed.load_state(checkpoints.load())
    assert len(resumed.history) == stopped_after
    list(resumed.train())
    assert weights(resumed.network) == weights(whole.network)
    assert (resumed.best.epoch, resumed.best.score) == (whole.best.epoch, whole.best.score)
    for one, other in zip(resumed.history, whole.history, strict=True):
        assert one.epoch == other.epoch
        of_both = ({k: v for k, v in s.metrics.items() if "time/" not in k} for s in (one, other))
        assert next(of_both) == next(of_both)


def test_the_time_that_training_waits_for_data_is_its_share_of_the_epoch(monkeypatch):
    """The clock moves only while training waits for images, so the share is 1."""
    now = 0.0

    def slowly(*arguments):
        nonlocal now
        for pixels in iter_batches(*arguments):
            now += 1.0
            yield pixels

    monkeypatch.setattr(trainer_module, "iter_batches", slowly)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    trainer, _ = train(replace(SHORT, epochs=1))
    assert trainer.history[0].metrics["time/waiting_share"] == 1.0


def train_and_die(moment: str) -> None:
    """Train with one thread until SIGKILL ends this process at the given moment."""
    torch.set_num_threads(1)
    trainer, checkpoints = trainer_of(), Checkpoints(moment)
    rename, counts = os.replace, Counter()

    def counted_batches(*arguments):
        for pixels in iter_batches(*arguments):
            counts["batch"] += 1
            if moment == "inside" and counts["batch"] == 4:  # the last of epoch 2
                os.kill(os.getpid(), signal.SIGKILL)
            yield pixels

    def counted_replace(*arguments):
        counts["replaced"] += 1
        if moment == "writing" and counts["replaced"] == 3:  # of the start, and of two epochs
            os.kill(os.getpid(), signal.SIGKILL)
        rename(*arguments)

    trainer_module.iter_batches, os.replace = counted_batches, counted_replace
    checkpoints.save(trainer.state())
    for _ in trainer.train():
        checkpoints.save(trainer.state())
        if moment == "between":
            os.kill(os.getpid(), signal.SIGKILL)


MOMENTS = ("inside", "between", "writing")


@pytest.fixture(scope="module")
def checkpoints_of_killed(tmp_path_factory) -> dict[str, dict]:
    """The last checkpoint of a killed training, by the moment of the kill."""
    with patch.dict(os.environ, EMBEDLAB_CACHE=str(tmp_path_factory.mktemp("killed"))):
        for moment in MOMENTS:
            process = multiprocessing.get_context("fork").Process(
                target=train_and_die, args=(moment,)
            )
            process.start()
            process.join(120)
            assert process.exitcode == -signal.SIGKILL
        return {moment: Checkpoints(moment).load() for moment in MOMENTS}


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, bytes]:
    """The weights of the same training without interruption."""
    with one_thread():
        return weights(train()[0].network)


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread in the block, because several threads add in another order."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_training_killed_by_sigkill_resumes_to_the_same_weights(
    moment, checkpoints_of_killed, uninterrupted
):
    state = checkpoints_of_killed[moment]
    assert len(state["history"]) == 1
    with one_thread():
        resumed = trainer_of()
        resumed.load_state(state)
        list(resumed.train())
    assert weights(resumed.network) == uninterrupted


def test_a_checkpoint_of_other_images_is_refused():
    state, trainer = trainer_of().state(), trainer_of()
    trainer.split = replace(trainer.split, digest="changed")
    with pytest.raises(DataError, match="resume: expected the images that this training began"):
        trainer.load_state(state)


def test_a_full_gpu_is_not_taken_for_a_checkpoint_that_does_not_fit(monkeypatch):
    state, trainer = trainer_of().state(), trainer_of()
    full = torch.OutOfMemoryError("CUDA out of memory.")
    monkeypatch.setattr(trainer._optimizer, "load_state_dict", Mock(side_effect=full))
    with pytest.raises(torch.OutOfMemoryError):
        trainer.load_state(state)


def test_a_checkpoint_of_another_network_is_refused():
    trainer = trainer_of(net=network(n_classes=4))
    with pytest.raises(DataError, match="does not fit this network and recipe"):
        trainer.load_state(trainer_of().state())
