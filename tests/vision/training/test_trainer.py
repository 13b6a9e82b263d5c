"""Fine-tuning: what is trained and what is not, and that a stopped training ends the same."""

import math
import multiprocessing
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from unittest.mock import PropertyMock, patch

import numpy as np
import pytest
import torch
from conftest import fresh_store
from hypothesis import given
from hypothesis import strategies as st
from narrow_resnet import NARROW
from synthetic_images import split_of, squares

from embedlab.errors import DataError, DivergedError, OptionError
from embedlab.progress import EpochRecord
from embedlab.vision.backbone import attach_head, load_backbone, new_head
from embedlab.vision.data.images import ImageDataset
from embedlab.vision.evaluation.metrics import AccuracyAndLoss, Predictions
from embedlab.vision.inference import Classifier
from embedlab.vision.options import FREEZE
from embedlab.vision.training.checkpoint import Checkpoints
from embedlab.vision.training.cost_estimate import epoch_work
from embedlab.vision.training.epochs import Epoch
from embedlab.vision.training.optim import build_ema, build_optimizer, build_schedule
from embedlab.vision.training.recipes import (
    NOTEBOOK,
    OPTIMIZERS,
    FinetuneOptions,
    make_options,
)
from embedlab.vision.training.trainer import Trainer
from embedlab_serving.network import Preprocessing
from entrypoints import finetune as finetune_entry

RESOLUTION = 32
SHORT = make_options("fast", epochs=3, batch_size=16, resolution=(RESOLUTION,), augment="crop")
# Enough of both for BatchNorm's running statistics to follow.
MANY, LONGER = squares(n_per_class=80), replace(SHORT, epochs=6, batch_size=8, ema=0.0)
FEW = squares(n_per_class=24)
STEPS = 2  # of an epoch: 36 training images in batches of 16, the last incomplete one dropped
PREPROCESSING = Preprocessing(RESOLUTION, 1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def network(n_classes: int = 3, seed: int = 1) -> torch.nn.Module:
    backbone = load_backbone(NARROW, "none", seed=seed)
    return attach_head(backbone, new_head(backbone, n_classes, seed=seed))


def trainer_of(
    options: FinetuneOptions = SHORT, net=None, precision="float32", images=FEW, seed=0
) -> Trainer:
    model = Classifier(net or network(), PREPROCESSING, "cpu", precision, options.flip_view)
    return Trainer(model, images, split_of(images), options, seed)


def train(*arguments, **options) -> tuple[Trainer, list[Epoch]]:
    """A finished training, and its epochs."""
    trainer = trainer_of(*arguments, **options)
    return trainer, list(trainer.train())


def weights(net: torch.nn.Module) -> dict[str, bytes]:
    return {key: value.numpy().tobytes() for key, value in net.state_dict().items()}


# -- the loop ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def longer() -> tuple[Trainer, list[Epoch]]:
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
    again = trainer.classifier.predict(MANY, split_of(MANY).val)
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
    for _ in trainer_of().train(lambda done, total, detail: reports.append((done, total))):
        pass
    done, totals = zip(*reports, strict=True)
    assert list(done) == sorted(done)
    assert set(totals) == {done[-1]}
    assert done[-1] == sum(epoch_work(SHORT, n_train=STEPS * 16, n_val=18))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_loss_that_is_not_finite_names_the_step_and_the_rate(optimizer):
    # Adam's steps are as long as the rate whatever the gradient is, so it takes a huge one.
    options = replace(SHORT, optimizer=optimizer, lr=1e30, ema=0.0)
    with pytest.raises(DivergedError, match=r"not finite at step \d+ \(epoch 1\).*lr=1e\+29"):
        train(options)


def test_an_epoch_is_validated_at_its_own_resolution():
    sides = []
    predict_logits = Classifier.predict_logits

    def watched(classifier, *arguments):
        sides.append(classifier.preprocessing.resolution)
        return predict_logits(classifier, *arguments)

    with patch.object(Classifier, "predict_logits", watched):
        train(replace(SHORT, resolution=(32, 40), epochs=4))
    assert sides == [32, 32, 40, 40]


def test_only_an_epoch_of_the_last_resolution_can_be_the_best():
    scores = [AccuracyAndLoss(accuracy, 0.0) for accuracy in (0.9, 0.5, 0.7, 0.6)]
    with patch.object(Predictions, "score", PropertyMock(side_effect=scores)):
        trainer, _ = train(replace(SHORT, resolution=(32, 40), epochs=4))
    assert (trainer.best.epoch, trainer.best.score.accuracy) == (3, 0.7)


# -- what is trained ---------------------------------------------------------------------------


@pytest.mark.parametrize("what", FREEZE)
def test_what_is_frozen_stays_as_it_was_statistics_included(what):
    parts = ["conv1 bn1", "layer1", "layer2", "layer3", "layer4", "fc"]
    n_frozen = list(FREEZE).index(what)
    net = network()
    before = weights(net)
    train(replace(SHORT, epochs=1, freeze=what, ema=0.0), net)
    after = weights(net)
    changed = {key.partition(".")[0] for key in before if before[key] != after[key]}
    assert changed == set(" ".join(parts[n_frozen:]).split())


def test_norms_and_biases_are_not_decayed():
    net = network()
    decayed, plain = build_optimizer(net, replace(SHORT, weight_decay=0.1)).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    plain_names = {names[id(parameter)] for parameter in plain["params"]}
    assert plain_names == {n for n in names.values() if "bn" in n or n.endswith("bias")} | {
        n for n in names.values() if "downsample.1" in n
    }
    assert len(decayed["params"]) + len(plain["params"]) == len(names)


def rates(options: FinetuneOptions, steps_per_epoch: int) -> list[float]:
    """The learning rate of every step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=options.lr)
    schedule = build_schedule(optimizer, options, steps_per_epoch)
    found = []
    for _ in range(options.epochs * steps_per_epoch):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_one_cycle_rises_for_its_share_and_ends_just_above_zero():
    options = replace(SHORT, epochs=2, warmup=0.25, lr=1.0)
    expected = [1 / 3, 2 / 3, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert rates(options, 4) == pytest.approx(expected)


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 50))
def test_every_warmup_ends_before_the_training_does(warmup, n_steps):
    options = replace(SHORT, epochs=1, warmup=warmup, resolution=(64,))
    assert all(rate > 0 for rate in rates(options, n_steps))


def test_step_divides_by_ten_and_constant_does_nothing():
    options = replace(NOTEBOOK, epochs=3, step_epochs=2)
    assert rates(options, 2) == pytest.approx([0.001] * 4 + [0.0001] * 2)
    assert rates(replace(options, schedule="constant"), 2) == [0.001] * 6


def test_the_average_follows_from_the_first_steps():
    """Its decay rises to 0.995; a fixed one would leave 96% of the start after nine steps."""
    layer = torch.nn.Linear(1, 1, bias=False)
    average = build_ema(layer, 0.995)
    expected = None
    for n in range(300):
        torch.nn.init.constant_(layer.weight, float(n))
        average.update_parameters(layer)
        decay = min(0.995, (1 + n) / (10 + n))
        expected = float(n) if n == 0 else decay * expected + (1 - decay) * n
    # float32 against float64
    assert average.module.weight.item() == pytest.approx(expected, rel=1e-5)


def test_mixed_precision_keeps_the_weights_in_float32():
    trainer, _ = train(precision="bfloat16")
    assert {value.dtype for value in trainer.network.parameters()} == {torch.float32}


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
    for _ in resumed.train():
        pass
    assert weights(resumed.network) == weights(whole.network)
    assert (resumed.best.epoch, resumed.best.score) == (whole.best.epoch, whole.best.score)
    for one, other in zip(resumed.history, whole.history, strict=True):
        assert one.epoch == other.epoch
        of_both = ({k: v for k, v in s.metrics.items() if "time/" not in k} for s in (one, other))
        assert next(of_both) == next(of_both)


def test_the_time_that_training_waits_for_data_is_its_share_of_the_epoch(monkeypatch):
    """By a clock that moves only while images are taken: it is all of the time."""
    now, take = 0.0, ImageDataset.take

    def slowly(images, rows):
        nonlocal now
        now += 1.0
        return take(images, rows)

    monkeypatch.setattr(ImageDataset, "take", slowly)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    trainer, _ = train(replace(SHORT, epochs=1))
    assert trainer.history[0].metrics["time/waiting_share"] == 1.0


def train_and_die(moment: str) -> None:
    """A training by one thread that SIGKILL ends at that moment."""
    torch.set_num_threads(1)
    trainer, checkpoints = trainer_of(), Checkpoints(moment)
    take, rename = ImageDataset.take, os.replace
    counts = Counter()

    def counted_take(images, rows):
        counts["taken"] += 1
        if moment == "inside" and counts["taken"] == 5:  # 2 batches and 1 of validation an epoch
            os.kill(os.getpid(), signal.SIGKILL)
        return take(images, rows)

    def counted_replace(*arguments):
        counts["replaced"] += 1
        if moment == "writing" and counts["replaced"] == 3:  # of the start, and of two epochs
            os.kill(os.getpid(), signal.SIGKILL)
        rename(*arguments)

    ImageDataset.take, os.replace = counted_take, counted_replace
    checkpoints.save(trainer.state())
    for _ in trainer.train():
        checkpoints.save(trainer.state())
        if moment == "between":
            os.kill(os.getpid(), signal.SIGKILL)


MOMENTS = ("inside", "between", "writing")


@pytest.fixture(scope="module")
def checkpoints_of_killed(tmp_path_factory) -> dict[str, dict]:
    """The last checkpoint of a killed training, by the moment."""
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
    """The weights of the same training, not interrupted."""
    with one_thread():
        return weights(train()[0].network)


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums in another order, as by several threads, are other sums."""
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
        for _ in resumed.train():
            pass
    assert weights(resumed.network) == uninterrupted


def test_a_checkpoint_is_whole_or_the_one_before(monkeypatch):
    checkpoints = Checkpoints("run")
    checkpoints.save({"epoch": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(DataError, match=r"No space left on device.*make room"):
            checkpoints.save({"epoch": 2})
    assert checkpoints.load() == {"epoch": 1}
    assert [path.name for path in checkpoints.folder.iterdir()] == ["last.pt"]
    checkpoints.delete()
    assert not checkpoints.folder.exists()


def test_the_checkpoints_of_all_stopped_parts_go_with_the_last_ones():
    for run_id, resumed in (("first", ""), ("second", "first"), ("third", "second"), ("other", "")):
        Checkpoints(run_id, resumed).save({"epoch": 1})
    Checkpoints("third").delete()
    assert [path.name for path in Checkpoints("other").folder.parent.iterdir()] == ["other"]


def test_a_note_of_the_resumed_run_that_a_power_failure_emptied_deletes_no_others():
    Checkpoints("other").save({"epoch": 1})
    broken = Checkpoints("broken", "first")
    broken.save({"epoch": 1})
    (broken.folder / "resumed.txt").write_text("")
    broken.delete()
    assert Checkpoints("other").load() == {"epoch": 1}
    assert not broken.folder.exists()


def test_resume_of_a_run_without_a_checkpoint_says_so():
    with pytest.raises(DataError, match=r"resume: run nothing has no checkpoint in"):
        Checkpoints("nothing").load()


@pytest.fixture(scope="module")
def store_folder(tmp_path_factory) -> Path:
    """One folder for the store of several runs: the tables of a new one take seconds to make."""
    return tmp_path_factory.mktemp("store")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--epochs", "3"], r"epochs: expected 2, the value in resume=\w+, got 3: leave"),
        (["--recipe", "notebook"], "recipe: expected fast, .* got notebook"),
        (["--dataset", "folder:{folder}"], "dataset: expected sample, .* got folder:"),
        (["--lr", "0.5", "--epochs", "2"], "lr: expected 0.01, .* got 0.5"),  # of the recipe
    ],
)
def test_a_parameter_that_contradicts_the_resumed_run_is_refused(
    tmp_path, store_folder, given, sentence
):
    settings = vars(finetune_entry.build_parser().parse_args([]))
    settings = {name: settings[name] for name in finetune_entry.SETTINGS}
    settings |= {"dataset": "sample", "weights": "none", "epochs": 2, "precision": "float32"}
    settings["recipe"] = "fast"
    del settings["head"], settings["batch_norm"]  # as an earlier version saved it
    run_id = "0123456789abcdef" * 2
    Checkpoints(run_id).save({"settings": settings})
    given = [word.format(folder=tmp_path) for word in given]
    with fresh_store(store_folder), pytest.raises(OptionError, match=sentence):
        finetune_entry.main(["--resume", run_id, *given])


def test_a_damaged_checkpoint_is_refused_or_has_lost_nothing():
    """Cut short, or a bit of it changed: torch itself would take most of the latter."""
    state = {"epoch": 1, "name": "sgd", "weights": torch.arange(500.0)}
    checkpoints = Checkpoints("run")
    checkpoints.save(state)
    whole, rng, n_refused = checkpoints.file.read_bytes(), np.random.default_rng(0), 0
    damaged = [whole[:size] for size in rng.integers(len(whole), size=30)]
    for position in rng.integers(len(whole), size=170):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << rng.integers(8)
        damaged.append(bytes(flipped))
    for content in damaged:
        checkpoints.file.write_bytes(content)
        try:
            loaded = checkpoints.load()
        except DataError as error:
            assert re.search(r"last\.pt is damaged \(\w+\); start anew", str(error))
            n_refused += 1
        else:  # the bit lies between the values
            assert torch.equal(loaded.pop("weights"), state["weights"])
            assert loaded == {"epoch": 1, "name": "sgd"}
    assert n_refused > 150


def test_a_checkpoint_of_other_images_is_refused():
    state, trainer = trainer_of().state(), trainer_of()
    trainer.split = replace(trainer.split, digest="changed")
    with pytest.raises(DataError, match="resume: expected the images that this training began"):
        trainer.load_state(state)
    del state["data_digest"]  # as an earlier version wrote it
    trainer.load_state(state)


def test_a_checkpoint_of_another_network_is_refused():
    trainer = trainer_of(net=network(n_classes=4))
    with pytest.raises(DataError, match="does not fit this network and recipe"):
        trainer.load_state(trainer_of().state())
