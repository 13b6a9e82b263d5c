"""Multi-class logistic regression on standardised features: one `nn.Linear`, cross-entropy.

In: features and labels of training and validation images. Out: the weights of the epoch with the
best validation accuracy, folded into a layer that takes the features as they are.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from embedlab.errors import DivergedError
from embedlab.progress import OnStep, Step
from embedlab.vision.evaluation.metrics import NO_SCORE, ValidationScore
from embedlab.vision.options import LinearProbeOptions

LBFGS_EVALUATIONS = 20  # of one epoch

OnLogits = Callable[[int, np.ndarray], None]  # (epoch, scores)


@dataclass(frozen=True)
class LinearProbe:
    """A fitted head.

    layer     nn.Linear on plain features: the standardisation is inside.
    epoch     the best by validation accuracy, of equal ones by the lower loss.
    score     of that epoch on the validation images.
    seconds   wall time of all epochs.
    """

    layer: nn.Linear
    epoch: int
    score: ValidationScore
    seconds: float


def fit_linear_probe(
    train: tuple[np.ndarray, np.ndarray],
    val: tuple[np.ndarray, np.ndarray],
    n_classes: int,
    options: LinearProbeOptions,
    seed: int,
    device: str,
    on_step: OnStep,
    on_scores: OnLogits = lambda epoch, scores: None,
) -> LinearProbe:
    """`train` and `val` are (features (n, d) float32, labels (n,) int64).

    Calls `on_step` after every epoch with train/loss, train/accuracy, val/loss and val/accuracy of
    the weights that the epoch ended with; losses are without the penalty. Then `on_scores` with
    the scores of the validation images, (n, classes).
    Raises DivergedError where a loss is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.from_numpy(part).to(device) for part in train)  # (n, d), (n,)
    x_val, y_val = (torch.from_numpy(part).to(device) for part in val)
    mean, std = x.mean(0), x.std(0).clamp_min(1e-6)  # (d,)
    x, x_val = (x - mean) / std, (x_val - mean) / std

    layer = nn.Linear(x.shape[1], n_classes, device=device)
    nn.init.zeros_(layer.weight)  # convex: any start will do, and this one favours no class
    nn.init.zeros_(layer.bias)
    epoch_of = _lbfgs_epoch if options.optimizer == "lbfgs" else _minibatch_epoch
    optimizer = _optimizer(layer, options)

    best, best_epoch, best_score = None, 0, NO_SCORE
    started = time.perf_counter()
    for epoch in range(1, options.epochs + 1):
        epoch_started = time.perf_counter()
        epoch_of(layer, optimizer, x, y, options, generator)
        metrics = {}
        with torch.no_grad():
            for split, (features, labels) in {"train": (x, y), "val": (x_val, y_val)}.items():
                scores = layer(features)  # (n, classes)
                metrics[f"{split}/loss"] = F.cross_entropy(scores, labels).item()
                metrics[f"{split}/accuracy"] = (scores.argmax(1) == labels).float().mean().item()
        if not np.isfinite(metrics["train/loss"]):
            raise DivergedError(
                f"{options.label} diverged: the loss is not finite after epoch {epoch}; try a "
                f"smaller learning rate, such as lr={options.lr / 10:g}."
            )
        score = ValidationScore.of(metrics)
        if score.beats(best_score):
            best_epoch, best_score = epoch, score
            best = layer.weight.detach().clone(), layer.bias.detach().clone()
        on_step(Step(epoch, metrics, time.perf_counter() - epoch_started))
        on_scores(epoch, scores.cpu().numpy())

    # W (f − m)/s + b = (W/s) f + (b − (W/s) m)
    weight, bias = best
    folded = nn.Linear(x.shape[1], n_classes)
    with torch.no_grad():
        folded.weight.copy_(weight / std)
        folded.bias.copy_(bias - (weight / std) @ mean)
    return LinearProbe(folded, best_epoch, best_score, time.perf_counter() - started)


def probe_logits(layer: nn.Linear, features: np.ndarray) -> np.ndarray:
    """(n, classes) float32."""
    with torch.inference_mode():
        return layer(torch.from_numpy(features)).numpy()


def _optimizer(layer: nn.Linear, options: LinearProbeOptions) -> torch.optim.Optimizer:
    parameters = [
        {"params": [layer.weight], "weight_decay": options.weight_decay},
        {"params": [layer.bias], "weight_decay": 0.0},
    ]
    match options.optimizer:
        case "sgd":
            return torch.optim.SGD(parameters, lr=options.lr, momentum=0.9)
        case "adam":
            return torch.optim.Adam(parameters, lr=options.lr)
        case "adamw":
            return torch.optim.AdamW(parameters, lr=options.lr)
        case "lbfgs":
            return torch.optim.LBFGS(
                layer.parameters(),
                lr=options.lr,
                max_iter=LBFGS_EVALUATIONS,
                line_search_fn="strong_wolfe",
            )


def _minibatch_epoch(layer, optimizer, x, y, options: LinearProbeOptions, generator) -> None:
    order = torch.randperm(len(x), generator=generator).to(x.device)
    for rows in order.split(options.batch_size_for(len(x))):
        loss = F.cross_entropy(layer(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _lbfgs_epoch(layer, optimizer, x, y, options: LinearProbeOptions, _) -> None:
    def loss_and_gradient():
        optimizer.zero_grad()
        # As torch's other optimizers have it: the gradient of (λ/2) ‖W‖² is λ W.
        penalty = options.weight_decay / 2 * layer.weight.square().sum()
        loss = F.cross_entropy(layer(x), y) + penalty
        loss.backward()
        return loss

    optimizer.step(loss_and_gradient)
