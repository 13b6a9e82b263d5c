"""Fine-tuning: what is trained and what is not, and that a stopped training ends the same."""

import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from conftest import PROJECT, fresh_store
from squares import split_of, squares
from torch.optim.swa_utils import AveragedModel
from torchvision import models

from embedlab.errors import DataError, DivergedError, OptionError
from embedlab.vision import inference as forward
from embedlab.vision.evaluation.metrics import ValidationScore
from embedlab.vision.inference import predict_logits
from embedlab.vision.models.backbone import Backbone, classifier, load_backbone, new_head
from embedlab.vision.options import FAST, FREEZE, NOTEBOOK, FinetuneOptions, make_options
from embedlab.vision.training import trainer as finetune_module
from embedlab.vision.training.checkpoint import Checkpoints
from embedlab.vision.training.trainer import (
    build_optimizer,
    build_schedule,
    cheaper_options,
    finetune,
    moving_average,
    predict,
    work_of,
)
from embedlab_serving.preprocess import Preprocessing
from entrypoints import finetune as finetune_entry

RESOLUTION = 32
SHORT = make_options("fast", epochs=3, batch_size=16, resolution=(RESOLUTION,), augment="crop")
# Enough of both for BatchNorm's running statistics to follow.
MANY, LONGER = squares(n_per_class=80), replace(SHORT, epochs=6, batch_size=8, ema=0.0)
FEW = squares()
STEPS = 3  # of an epoch: 60 training images in batches of 16, the rest waits
PREPROCESSING = Preprocessing(RESOLUTION, 1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def network() -> torch.nn.Module:
    backbone = load_backbone("resnet18", "none", seed=1)
    return classifier(backbone, new_head(backbone, 3, seed=1))


def train(options: FinetuneOptions = SHORT, net=None, precision="float32", images=FEW, **listeners):
    """The trained network and the steps that were heard."""
    steps = []
    tuned = finetune(
        net or network(),
        images,
        split_of(images),
        PREPROCESSING,
        options,
        0,
        "cpu",
        precision,
        on_step=steps.append,
        **listeners,
    )
    return tuned, steps


def weights(net: torch.nn.Module) -> dict[str, bytes]:
    return {key: value.numpy().tobytes() for key, value in net.state_dict().items()}


# -- the loop ----------------------------------------------------------------------------------


def test_colours_are_learnt_and_every_epoch_is_reported():
    shown = []
    tuned, steps = train(
        LONGER, images=MANY, on_predictions=lambda epoch, p: shown.append((epoch, p))
    )
    assert [step.epoch for step in steps] == list(range(1, 7))
    for step in steps:
        names = {"train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr"}
        assert set(step.metrics) == names | {"time/waiting_share"}
        assert 0 < step.metrics["time/waiting_share"] < 1
        assert all(map(math.isfinite, step.metrics.values()))
        assert step.seconds > 0
    scores = [ValidationScore.of(step.metrics) for step in steps]
    assert [score.accuracy for score in scores].count(1.0) > 1
    of_equals = min(score for score in scores if score.accuracy == 1.0)
    assert tuned.score == of_equals == scores[tuned.epoch - 1]
    assert [epoch for epoch, _ in shown] == list(range(1, 7))
    assert [p.is_right.mean() for _, p in shown] == [score.accuracy for score in scores]


def test_the_network_that_comes_back_is_the_best_epochs():
    tuned, _ = train(LONGER, images=MANY)
    split = split_of(MANY)
    again = predict(tuned.network, MANY, split.val, PREPROCESSING, SHORT, "cpu", "float32")
    assert again.is_right.mean() == tuned.score.accuracy
    assert not tuned.network.training


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    once, again = train()[0], train()[0]
    assert weights(once.network) == weights(again.network)
    other = finetune(
        network(),
        FEW,
        split_of(FEW),
        PREPROCESSING,
        SHORT,
        1,
        "cpu",
        "float32",
        on_step=lambda step: None,
    )
    assert weights(other.network) != weights(once.network)


def test_progress_adds_up_to_the_whole():
    heard = []
    train(on_work=lambda done, total, shown: heard.append((done, total)))
    done, totals = zip(*heard, strict=True)
    assert list(done) == sorted(done)
    assert set(totals) == {done[-1]}
    assert done[-1] == work_of(SHORT, n_train=STEPS * 16, n_val=30)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_a_loss_that_is_not_finite_names_the_step_and_the_rate(optimizer):
    # Adam's steps are as long as the rate whatever the gradient is, so it takes a huge one.
    options = replace(SHORT, optimizer=optimizer, lr=1e30, ema=0.0)
    with pytest.raises(DivergedError, match=r"not finite at step \d+ \(epoch 1\).*lr=1e\+29"):
        train(options)


def test_an_epoch_is_validated_at_its_own_resolution():
    sides = []

    def watched(network, images, rows, preprocessing, *arguments):
        sides.append(preprocessing.resolution)
        return predict_logits(network, images, rows, preprocessing, *arguments)

    with patch.object(finetune_module, "predict_logits", watched):
        train(replace(SHORT, resolution=(32, 40), epochs=4))
    assert sides == [32, 32, 40, 40]


def test_only_an_epoch_of_the_last_resolution_can_be_the_best():
    accuracies = iter([0.9, 0.5, 0.7, 0.6])

    def scores(*_):
        return {"val/loss": 0.0, "val/accuracy": next(accuracies)}

    with patch.object(finetune_module, "_scores", scores):
        tuned, _ = train(replace(SHORT, resolution=(32, 40), epochs=4))
    assert (tuned.epoch, tuned.score.accuracy) == (3, 0.7)


# -- what is trained ---------------------------------------------------------------------------


@pytest.mark.parametrize("what", FREEZE)
def test_what_is_frozen_stays_as_it_was_statistics_included(what):
    parts = ["conv1 bn1", "layer1", "layer2", "layer3", "layer4", "fc"]
    n_frozen = FREEZE.index(what)
    net = network()
    before = weights(net)
    tuned, _ = train(replace(SHORT, epochs=1, freeze=what, ema=0.0), net)
    after = weights(tuned.network)
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


def test_step_divides_by_ten_and_constant_does_nothing():
    options = replace(NOTEBOOK, epochs=3, step_epochs=2)
    assert rates(options, 2) == pytest.approx([0.001] * 4 + [0.0001] * 2)
    assert rates(replace(options, schedule="constant"), 2) == [0.001] * 6


def test_the_average_follows_from_the_first_steps():
    """Its decay rises to 0.995; a fixed one would leave 96 % of the start after nine steps."""
    layer = torch.nn.Linear(1, 1, bias=False)
    average = AveragedModel(layer, multi_avg_fn=moving_average(0.995))
    expected = None
    for n in range(300):
        torch.nn.init.constant_(layer.weight, float(n))
        average.update_parameters(layer)
        decay = min(0.995, (1 + n) / (10 + n))
        expected = float(n) if n == 0 else decay * expected + (1 - decay) * n
    # float32 against float64
    assert average.module.weight.item() == pytest.approx(expected, rel=1e-5)


def test_mixed_precision_keeps_the_weights_in_float32():
    tuned, _ = train(precision="bfloat16")
    assert {value.dtype for value in tuned.network.parameters()} == {torch.float32}


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
    whole, steps = train(options, precision=precision)

    checkpoints = Checkpoints("stopped")

    class Stop(Exception):
        pass

    def save_and_stop(state):
        checkpoints.save(state)
        if state["epoch"] == stopped_after:
            raise Stop

    with pytest.raises(Stop):
        train(options, precision=precision, save=save_and_stop)
    torch.manual_seed(12345)  # whatever was drawn meanwhile
    other_start = classifier(
        loaded := load_backbone("resnet18", "none", seed=9), new_head(loaded, 3, seed=9)
    )
    resumed, all_steps = train(options, other_start, precision, resume_from=checkpoints.load())
    assert weights(resumed.network) == weights(whole.network)
    assert (resumed.epoch, resumed.score) == (whole.epoch, whole.score)
    for one, other in zip(all_steps, steps, strict=True):
        assert one.epoch == other.epoch
        of_both = ({k: v for k, v in s.metrics.items() if "time/" not in k} for s in (one, other))
        assert next(of_both) == next(of_both)


def test_what_is_waited_for_is_told():
    take = forward.take

    def slowly(*arguments):
        time.sleep(0.5)
        return take(*arguments)

    with patch.object(forward, "take", slowly):
        _, (step,) = train(replace(SHORT, epochs=1))
    assert step.metrics["time/waiting_share"] > 0.5


KILLED = """
import os, signal, sys
sys.path[:0] = ["src", "tests", "tests/vision/training"]
import torch
torch.set_num_threads(1)
import test_trainer
from embedlab.vision import inference as forward
from embedlab.vision.training import checkpoint
from embedlab.vision.training.checkpoint import Checkpoints

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

where, n = sys.argv[1], 0
take, replace = forward.take, os.replace

def counted_take(*arguments):
    global n
    n += 1
    if where == "inside" and n == 6:  # 3 batches and 1 validation an epoch: the second epoch
        die()
    return take(*arguments)

def killed_replace(*arguments):
    global n
    n += 1
    if where == "writing" and n == 3:  # the start's, the first epoch's, and the second's
        die()
    replace(*arguments)

forward.take = counted_take
if where == "writing":
    n = 0
    forward.take = take
    checkpoint.os.replace = killed_replace
checkpoints = Checkpoints(where)

def save(state):
    checkpoints.save(state)
    if where == "between" and state["epoch"] == 1:
        die()

test_trainer.train(save=save)
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["inside", "between", "writing"])
def test_a_training_killed_by_sigkill_goes_on_to_the_same_weights(where):
    n_threads = torch.get_num_threads()
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, where], cwd=PROJECT, capture_output=True, text=True
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    state = Checkpoints(where).load()
    assert state["epoch"] == 1
    try:
        torch.set_num_threads(1)  # sums in another order are other sums
        resumed, _ = train(resume_from=state)
        whole, _ = train()
    finally:
        torch.set_num_threads(n_threads)
    assert weights(resumed.network) == weights(whole.network)


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


def test_resume_of_a_run_without_a_checkpoint_says_so():
    with pytest.raises(DataError, match=r"resume: run nothing has no checkpoint in"):
        Checkpoints("nothing").load()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--epochs", "3"], r"epochs: expected 2, which resume=\w+ brings with it, got 3: leave"),
        (["--recipe", "notebook"], "recipe: expected fast, .* got notebook"),
        (["--dataset", "folder:{folder}"], "dataset: expected sample, .* got folder:"),
        (["--lr", "0.5", "--epochs", "2"], "lr: expected 0.01, .* got 0.5"),  # of the recipe
    ],
)
def test_a_parameter_that_contradicts_the_resumed_run_is_refused(tmp_path, given, sentence):
    settings = vars(finetune_entry.build_parser().parse_args([]))
    settings = {name: settings[name] for name in finetune_entry.SETTINGS}
    settings |= {"dataset": "sample", "weights": "none", "epochs": 2, "precision": "float32"}
    run_id = "0123456789abcdef" * 2
    Checkpoints(run_id).save({"settings": settings})
    given = [word.format(folder=tmp_path) for word in given]
    with fresh_store(tmp_path), pytest.raises(OptionError, match=sentence):
        finetune_entry.main(["--resume", run_id, *given])


def test_a_damaged_checkpoint_is_refused_or_has_lost_nothing():
    """Cut short, or a bit of it changed: torch itself would take most of the latter."""
    state = {"epoch": 1, "name": "sgd", "weights": torch.arange(500.0)}
    checkpoints = Checkpoints("run")
    checkpoints.save(state)
    whole, rng, n_refused = checkpoints.file.read_bytes(), np.random.default_rng(0), 0
    damaged = [whole[:size] for size in rng.integers(len(whole), size=30)]
    for place in rng.integers(len(whole), size=170):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.integers(8)
        damaged.append(bytes(flipped))
    for content in damaged:
        checkpoints.file.write_bytes(content)
        try:
            loaded = checkpoints.load()
        except DataError as error:
            assert re.search(r"last\.pt is damaged \(\w+\); start anew", str(error))
            n_refused += 1
        else:  # the bit is of what lies between the values
            assert torch.equal(loaded.pop("weights"), state["weights"])
            assert loaded == {"epoch": 1, "name": "sgd"}
    assert n_refused > 150


def test_a_checkpoint_of_another_network_is_refused():
    states = []
    train(replace(SHORT, epochs=1), save=states.append)
    four = load_backbone("resnet18", "none", seed=1)
    with pytest.raises(DataError, match="does not fit this network and recipe"):
        train(net=classifier(four, new_head(four, 4, seed=1)), resume_from=states[-1])


# -- options -----------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("optimizer", "lion", "optimizer: expected one of sgd, adam"),
        ("schedule", "cosine", "schedule: expected one of one_cycle"),
        ("augment", "mixup", "augment: expected one of none"),
        ("freeze", "all", "freeze: expected one of none, stem"),
        ("lr", 0.0, "lr: expected more than 0"),
        ("epochs", 0, "epochs: expected more than 0"),
        ("momentum", 1.0, "momentum: expected 0 to below 1"),
        ("label_smoothing", 1.0, "label_smoothing: expected 0 to below 1"),
        ("ema", -0.1, "ema: expected 0 to below 1"),
        ("weight_decay", -1.0, "weight_decay: expected 0 or more"),
        ("resolution", (64,) * 4, "resolution: expected at most one for each of 3 epochs"),
        ("resolution", (16,), "resolution: expected 32 to 1024 pixels, got 16"),
    ],
)
def test_an_ingredient_out_of_range_is_refused(name, value, sentence):
    with pytest.raises(OptionError, match=sentence):
        replace(SHORT, **{name: value})


def test_the_recipe_is_named_where_it_is_unknown():
    with pytest.raises(OptionError, match="recipe: expected one of fast, notebook"):
        make_options("slow")


def test_cheaper_settings_are_cheaper():
    shares = dict(cheaper_options(FAST, n_train=42_500, n_val=7_500))
    assert set(shares) == {"resolution=64", "train_limit=10000", "epochs=3"}
    assert all(0 < share < 1 for share in shares.values())
    small = make_options("fast", epochs=3, resolution=(64,))
    assert cheaper_options(small, n_train=5_000, n_val=500) == []


def test_work_grows_with_pixels_images_and_epochs():
    options = make_options("fast", epochs=4, resolution=(64,))
    work = work_of(options, 1000, 0)
    assert work == 4 * 1000 * 64**2
    assert work_of(replace(options, resolution=(128,)), 1000, 0) == 4 * work
    assert work_of(options, 1000, 100) > work


def test_a_backbones_network_is_what_the_head_is_put_on():
    backbone = load_backbone("resnet18", "none", seed=3)
    assert isinstance(backbone, Backbone)
    net = classifier(backbone, new_head(backbone, 7, seed=0))
    plain = models.resnet18(num_classes=7).eval()
    plain.load_state_dict(net.state_dict())
    image = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert np.array_equal(plain(image), net.eval()(image))
