"""Weight decay, learning-rate schedules, and the moving average of the weights."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from narrow_resnet import narrow_resnet18

from embedlab.vision.training.optim import build_ema, build_optimizer, build_schedule
from embedlab.vision.training.recipes import NOTEBOOK, FinetuneOptions

SHORT = FinetuneOptions(epochs=3, resolution=(32,))


def test_norms_and_biases_are_not_decayed():
    net = narrow_resnet18()
    decayed, plain = build_optimizer(net, replace(SHORT, weight_decay=0.1)).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    plain_names = {names[id(parameter)] for parameter in plain["params"]}
    assert plain_names == {n for n in names.values() if "bn" in n or n.endswith("bias")} | {
        n for n in names.values() if "downsample.1" in n
    }
    assert len(decayed["params"]) + len(plain["params"]) == len(names)


@pytest.mark.parametrize(
    ("optimizer", "nesterov"),
    [("sgd", True), ("sgd", False), ("adam", False), ("adamw", False), ("rmsprop", False)],
)
def test_a_first_step_that_float16_skips_leaves_no_trace(monkeypatch, optimizer, nesterov):
    """torch's fused SGD kept uninitialised memory, here nan, as the momentum."""
    monkeypatch.setattr(torch, "empty_like", lambda like, **_: torch.full_like(like, torch.nan))
    options = replace(SHORT, optimizer=optimizer, momentum=0.9, nesterov=nesterov)
    ends = []
    for losses in (["inf", 2.0, 3.0], [2.0, 3.0]):
        layer = torch.nn.Linear(4, 3)
        with torch.no_grad():
            layer.weight.copy_(torch.arange(12.0).reshape(3, 4) / 10)
            layer.bias.fill_(0.5)
        updates, scaler = build_optimizer(layer, options), torch.amp.GradScaler("cpu")
        for factor in losses:
            updates.zero_grad()
            scaler.scale(float(factor) * layer(torch.ones(2, 4)).square().sum()).backward()
            scaler.step(updates)
            scaler.update()
        ends.append([parameter.detach().clone() for parameter in layer.parameters()])
    for after_skip, expected in zip(*ends, strict=True):
        assert torch.equal(after_skip, expected)


def rates(options: FinetuneOptions, steps_per_epoch: int) -> list[float]:
    """The learning rate of every step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=options.lr)
    schedule = build_schedule(optimizer, options, steps_per_epoch)
    values = []
    for _ in range(options.epochs * steps_per_epoch):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return values


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
    """Its decay rises to 0.995; a fixed decay would keep 96% of the start after nine steps."""
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
