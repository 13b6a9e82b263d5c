"""Train the network itself: one loop for every recipe.

In: a network with a head, images, a split, `FinetuneOptions`. Out: the network of the epoch with
the best validation accuracy. After every epoch all that the next one needs is in a checkpoint; on
the CPU a training that is continued from one ends with the same weights, bit for bit, as one that
was never stopped (with as many threads).
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from embedlab.distributed.collectives import broadcast, is_main_process, local_slice, world_size
from embedlab.distributed.sync_batchnorm import all_reduce_gradients, convert_sync_batchnorm
from embedlab.errors import DataError, DivergedError, OptionError
from embedlab.progress import OnStep, Step
from embedlab.vision.data.augmentation import Augmentation
from embedlab.vision.data.images import ImageDataset
from embedlab.vision.data.splits import Split
from embedlab.vision.evaluation.metrics import (
    NO_SCORE,
    Predictions,
    ValidationScore,
    predictions_of,
)
from embedlab.vision.inference import iter_batches, precision_context, predict_logits
from embedlab.vision.models.backbone import freeze, train_mode
from embedlab.vision.options import FinetuneOptions
from embedlab_serving.preprocess import Preprocessing

STEPS_BETWEEN_CHECKS = 20  # of the loss: looking at it makes a GPU wait
FORWARD_SHARE = 0.35  # of the time of a training step, that an image without gradients takes

OnWork = Callable[[float, float, str], None]  # (done, of all, what to show)
OnPredictions = Callable[[int, Predictions], None]  # (epoch, of the validation images)


@dataclass(frozen=True)
class FineTuned:
    """A trained network, in eval mode.

    epoch    the best by validation accuracy, of equal ones by the lower loss.
    score    of that epoch on the validation images.
    seconds  wall time of all epochs, those before a resume included.
    """

    network: nn.Module
    epoch: int
    score: ValidationScore
    seconds: float


@dataclass
class Training:
    """What changes during a training; `state` and `load` are a checkpoint's content."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: lr_scheduler.LRScheduler
    average: AveragedModel | None
    scaler: torch.amp.GradScaler
    epoch: int = 0
    seconds: float = 0.0
    history: list[dict] = field(default_factory=list)
    best: dict = field(default_factory=lambda: {**NO_SCORE._asdict(), "epoch": 0, "network": {}})

    @property
    def best_score(self) -> ValidationScore:
        # A checkpoint of an earlier version has no loss: any epoch of equal accuracy beats it.
        return ValidationScore(self.best["accuracy"], self.best.get("loss", math.inf))

    def state(self) -> dict:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "scaler": self.scaler.state_dict(),
            "rng": torch.get_rng_state(),
            "rng_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "epoch": self.epoch,
            "seconds": self.seconds,
            "history": self.history,
            "best": self.best,
        }

    def load(self, state: dict) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        if torch.cuda.is_available() and state["rng_cuda"]:
            torch.cuda.set_rng_state_all(state["rng_cuda"])
        self.epoch, self.seconds = state["epoch"], state["seconds"]
        self.history, self.best = state["history"], state["best"]


def finetune(
    network: nn.Module,
    images: ImageDataset,
    split: Split,
    preprocessing: Preprocessing,
    options: FinetuneOptions,
    seed: int,
    device: str,
    precision: str,
    *,
    on_step: OnStep,
    on_work: OnWork = lambda done, total, shown: None,
    on_predictions: OnPredictions = lambda epoch, predictions: None,
    save: Callable[[dict], None] = lambda state: None,
    resume_from: dict | None = None,
) -> FineTuned:
    """Train `network` (it is changed) and return the best epoch's, of those at the last resolution.

    preprocessing   of validation images; its resolution is each epoch's own.
    on_step         after every epoch: train/loss, train/accuracy (while training, on augmented
                    images), val/loss, val/accuracy (at the epoch's resolution, of the moving
                    average, where there is one), lr, and time/waiting_share: of the training's
                    time the share in which batches were read, changed and scaled. After a resume
                    the earlier epochs come first.
    on_work         after every batch, in units of a training image at one pixel.
    save            gets the state before the first epoch and after each.
    resume_from     such a state.

    Several processes train together, each a share of every batch, to what one would, but for
    rounding; the first of them calls `on_…` and `save`, and any may `resume_from` what it saved.

    Raises DivergedError where a loss is not finite, with the step and the learning rate, and
    OptionError where there are more processes than images in a batch.
    """
    if not is_main_process():
        on_step = on_work = on_predictions = save = _nothing
    network.load_state_dict(broadcast(network.state_dict))
    network.to(device, memory_format=torch.channels_last)
    frozen = freeze(network, options.freeze)
    batch_size = min(options.batch_size, len(split.train))
    if batch_size < world_size():
        raise OptionError(
            f"processes: expected at most {batch_size}, as many as there are images in a batch, "
            f"got {world_size()}"
        )
    if world_size() > 1:
        convert_sync_batchnorm(network)
    steps_per_epoch = len(split.train) // batch_size
    training = _prepare(network, options, steps_per_epoch, device, precision)
    if device.startswith("cuda") and world_size() == 1:
        network.compile()
    work = _Work(options, steps_per_epoch * batch_size, len(split.val), on_work)

    torch.manual_seed(seed)
    if resume_from is not None:
        _load(training, resume_from)
        for record in training.history:
            on_step(Step(**record))
            work.finish_epoch(record["epoch"])
    save(training.state())

    for epoch in range(training.epoch + 1, options.epochs + 1):
        started = time.perf_counter()
        train_mode(network, frozen)
        resolution = options.resolution_at(epoch)
        batches = _TimedLoader(
            _batches(images, split.train, options, preprocessing, resolution, device, batch_size)
        )
        metrics = _train_epoch(
            training,
            batches,
            options,
            precision_context(precision, device),
            batch_size,
            partial(work.train, resolution, batch_size),
            (epoch - 1) * steps_per_epoch,
        )
        metrics["time/waiting_share"] = batches.seconds / (time.perf_counter() - started)
        judged = network if training.average is None else training.average.module
        seen = replace(preprocessing, resolution=resolution)
        on_count = partial(work.evaluate, resolution)
        predictions = predict(judged, images, split.val, seen, options, device, precision, on_count)
        metrics |= broadcast(partial(_scores, "val", predictions))
        seconds = time.perf_counter() - started

        can_be_served = resolution == options.resolution[-1]
        score = ValidationScore.of(metrics)
        if can_be_served and score.beats(training.best_score):
            weights = {key: value.cpu().clone() for key, value in judged.state_dict().items()}
            training.best = {**score._asdict(), "epoch": epoch, "network": weights}
        training.epoch, training.seconds = epoch, training.seconds + seconds
        training.history.append({"epoch": epoch, "metrics": metrics, "seconds": seconds})
        save(training.state())
        on_step(Step(epoch, metrics, seconds))
        on_predictions(epoch, predictions)
        work.finish_epoch(epoch)

    network.load_state_dict(training.best["network"])
    network.eval()
    return FineTuned(network, training.best["epoch"], training.best_score, training.seconds)


def predict(
    network: nn.Module,
    images: ImageDataset,
    rows: np.ndarray,
    preprocessing: Preprocessing,
    options: FinetuneOptions,
    device: str,
    precision: str,
    on_count: Callable[[int, int], None] | None = None,
) -> Predictions | None:
    """What the network says of those images; of several processes, to the first."""
    scores = predict_logits(
        network,
        images.pixels,
        rows,
        preprocessing,
        device,
        precision,
        options.flip_view,
        on_count,
    )
    return None if scores is None else predictions_of(scores, images.labels, rows)


def _nothing(*_: object) -> None:
    pass


def _prepare(
    network: nn.Module, options: FinetuneOptions, steps_per_epoch: int, device: str, precision: str
) -> Training:
    optimizer = build_optimizer(network, options)
    average = None
    if options.ema:
        average = AveragedModel(network, multi_avg_fn=moving_average(options.ema), use_buffers=True)
    schedule = build_schedule(optimizer, options, steps_per_epoch)
    scaler = torch.amp.GradScaler(device, enabled=precision == "float16")
    return Training(network, optimizer, schedule, average, scaler)


def moving_average(decay: float) -> Callable:
    """The decay rises to its value, so that the start does not weigh on a short training."""

    def update(averaged: list, current: list, n_updates: torch.Tensor) -> None:
        n = int(n_updates)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averaged, current, n_updates)

    return update


def build_optimizer(network: nn.Module, options: FinetuneOptions) -> torch.optim.Optimizer:
    """Weight decay on the weights of layers alone: biases and norms are vectors."""
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    lr, momentum = options.lr, options.momentum
    match options.optimizer:
        case "sgd":
            nesterov = options.nesterov and momentum > 0
            return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=lr, momentum=momentum)
        case "adam":
            return torch.optim.Adam(groups, lr=lr, betas=(momentum, 0.999))
        case "adamw":
            return torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999))


def build_schedule(
    optimizer: torch.optim.Optimizer, options: FinetuneOptions, steps_per_epoch: int
) -> lr_scheduler.LRScheduler:
    """The learning rate of every step."""
    total = steps_per_epoch * options.epochs
    warm = round(options.warmup * total)

    def one_cycle(step: int) -> float:  # Smith and Topin 2018, with straight flanks
        if step < warm:
            return (step + 1) / (warm + 1)
        return max(0.0, (total - step) / (total - warm))

    match options.schedule:
        case "one_cycle":
            return lr_scheduler.LambdaLR(optimizer, one_cycle)
        case "step":
            return lr_scheduler.StepLR(optimizer, options.step_epochs * steps_per_epoch, 0.1)
        case "constant":
            return lr_scheduler.ConstantLR(optimizer, factor=1.0)


def _load(training: Training, state: dict) -> None:
    try:
        training.load(state)
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise DataError(
            f"resume: the checkpoint does not fit this network and recipe ({error}); start anew."
        ) from error


def _batches(
    images: ImageDataset,
    rows: np.ndarray,
    options: FinetuneOptions,
    preprocessing: Preprocessing,
    resolution: int,
    device: str,
    batch_size: int,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch: every image at most once, in random order; what does not fill a batch waits.

    Of each batch this process's share, changed by what is drawn for all of it.
    """
    mine = local_slice(batch_size)
    augment = Augmentation(options.augment, images.side, resolution)
    prepare = Preprocessing(resolution, 1.0, preprocessing.mean, preprocessing.std)
    order = rows[torch.randperm(len(rows)).numpy()]
    starts = range(0, len(order) - batch_size + 1, batch_size)
    parts = [order[start : start + batch_size] for start in starts]
    for part, taken in zip(parts, iter_batches(images.pixels, parts, device), strict=True):
        labels = torch.from_numpy(images.labels[part][mine]).to(device)  # (b,)
        changed = augment(taken)  # (batch_size, 3, side, side)
        yield prepare(changed[mine]), labels  # (b, 3, r, r)


class _TimedLoader:
    """Batches, and the seconds for which the network has waited for them."""

    def __init__(self, batches: Iterator[tuple[torch.Tensor, torch.Tensor]]):
        self._batches = batches
        self.seconds = 0.0

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            started = time.perf_counter()
            batch = next(self._batches, None)
            self.seconds += time.perf_counter() - started
            if batch is None:
                return
            yield batch


def _train_epoch(
    training: Training,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    options: FinetuneOptions,
    mixed_precision,
    batch_size: int,
    on_batch: Callable[[str], None],
    first_step: int,
) -> dict[str, float]:
    losses, n_right, n_seen, n_checked = [], 0, 0, 0
    shown = f"epoch {training.epoch + 1}"
    lr = training.schedule.get_last_lr()[0]
    for images, labels in batches:
        with mixed_precision:
            scores = training.network(images)  # (b, classes)
        loss = F.cross_entropy(scores.float(), labels, label_smoothing=options.label_smoothing)
        loss = loss * (len(labels) / batch_size)  # 1, or what this process's share counts
        training.optimizer.zero_grad(set_to_none=True)
        training.scaler.scale(loss).backward()
        loss, right = loss.detach(), (scores.argmax(1) == labels).sum()
        if world_size() > 1:
            loss, right = all_reduce_gradients(training.network.parameters(), loss, right)
        training.scaler.step(training.optimizer)
        training.scaler.update()
        training.schedule.step()
        if training.average is not None:
            training.average.update_parameters(training.network)

        losses.append(loss)
        n_right = n_right + right
        n_seen += batch_size
        if len(losses) - n_checked >= STEPS_BETWEEN_CHECKS:
            _raise_if_not_finite(losses, n_checked, first_step, training, options)
            n_checked = len(losses)
            shown = f"epoch {training.epoch + 1}, train/loss {losses[-1].item():.3f}"
        on_batch(shown)
    _raise_if_not_finite(losses, n_checked, first_step, training, options)
    return {
        "train/loss": torch.stack(losses).mean().item(),
        "train/accuracy": (n_right / n_seen).item(),
        "lr": lr,
    }


def _raise_if_not_finite(
    losses: list[torch.Tensor],
    n_checked: int,
    first_step: int,
    training: Training,
    options: FinetuneOptions,
) -> None:
    is_finite = torch.stack(losses[n_checked:]).isfinite() if losses[n_checked:] else None
    if is_finite is None or is_finite.all():
        return
    step = first_step + n_checked + int((~is_finite).nonzero()[0])
    raise DivergedError(
        f"the loss is not finite at step {step} (epoch {training.epoch + 1}), where the learning "
        f"rate was about {training.schedule.get_last_lr()[0]:g}; try a smaller one, such as "
        f"lr={options.lr / 10:g}."
    )


def _scores(split: str, predictions: Predictions) -> dict[str, float]:
    of_truth = predictions.probabilities[np.arange(len(predictions.labels)), predictions.labels]
    return {
        f"{split}/loss": float(-np.log(of_truth.clip(1e-12)).mean()),
        f"{split}/accuracy": float(predictions.is_right.mean()),
    }


def cheaper_options(options: FinetuneOptions, n_train: int, n_val: int) -> list[tuple[str, float]]:
    """What would take less time, and which share of this training's time."""
    now = work_of(options, n_train, n_val)
    changes = []
    if options.resolution[-1] > 64:
        changes.append(("resolution=64", replace(options, resolution=(64,)), n_train))
    if n_train > 10_000:
        changes.append(("train_limit=10000", options, 10_000))
    if options.epochs > 3:
        few = replace(options, epochs=3, resolution=options.resolution[-3:])
        changes.append(("epochs=3", few, n_train))
    return [(text, work_of(changed, n, n_val) / now) for text, changed, n in changes]


def work_of(options: FinetuneOptions, n_train: int, n_val: int) -> float:
    """Of the whole training, as `on_work` counts it."""
    return float(_Work(options, n_train, n_val, lambda *_: None).ends[-1])


class _Work:
    """Counts what is done of the whole training: images, weighted by their pixels."""

    def __init__(self, options: FinetuneOptions, n_train: int, n_val: int, on_work: OnWork):
        epochs = range(1, options.epochs + 1)
        pixels = np.array([options.resolution_at(epoch) ** 2 for epoch in epochs])
        self._of_val = FORWARD_SHARE * (2 if options.flip_view else 1)
        self._on_work = on_work
        self.ends = np.cumsum([0.0, *((n_train + n_val * self._of_val) * pixels)])
        self._done = self._epoch_start = 0.0

    def train(self, resolution: int, n_images: int, shown: str) -> None:
        self._done += n_images * resolution**2
        self._epoch_start = self._done
        self._on_work(self._done, self.ends[-1], shown)

    def evaluate(self, resolution: int, done: int, _: int) -> None:
        self._done = self._epoch_start + done * self._of_val * resolution**2
        self._on_work(self._done, self.ends[-1], "validation")

    def finish_epoch(self, epoch: int) -> None:
        self._done = self._epoch_start = self.ends[epoch]
