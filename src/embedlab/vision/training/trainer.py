"""Fine-tuning: train the network itself, with one loop for every recipe.

In: an `ImagePipeline`, images, a split, `FinetuneOptions`. Out: a `ValidatedEpoch` after every
epoch, and the weights of the best one by validation accuracy. `Trainer.state()` holds all that the
next epoch needs. On the CPU, resuming from it is bit-identical to an uninterrupted training (with
the same number of threads).
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from embedlab.device import can_compile
from embedlab.distributed.collectives import all_reduce_sum, broadcast, local_slice
from embedlab.distributed.env import rank, world_size
from embedlab.distributed.sync_batchnorm import convert_sync_batchnorm
from embedlab.errors import DataError, DivergedError, OptionError
from embedlab.progress import EpochRecord, OnProgress, ignore_progress
from embedlab.vision.backbone import freeze
from embedlab.vision.data.augmentation import augment
from embedlab.vision.data.batches import iter_batches
from embedlab.vision.data.images import ImageDataset
from embedlab.vision.data.splits import Split
from embedlab.vision.evaluation.metrics import NO_SCORE, AccuracyAndLoss
from embedlab.vision.inference import ImagePipeline
from embedlab.vision.seeds import seeded
from embedlab.vision.training.epochs import BestEpoch, ValidatedEpoch
from embedlab.vision.training.optim import build_ema, build_optimizer, build_schedule
from embedlab.vision.training.recipes import FinetuneOptions
from embedlab.vision.training.work_estimate import epoch_work, relative_validation_time

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
LARGE_PRIME = 2**31 - 1  # between the seeds of two steps
NOT_COMPILED = (
    "The network is not compiled: torch.compile needs Triton, a C compiler and Python's headers "
    "(on Debian and Ubuntu: apt install gcc python3-dev). Training takes longer without it."
)
STEPS_BETWEEN_CHECKS = 20  # of the loss: reading it makes a GPU wait

Batch = tuple[torch.Tensor, torch.Tensor]  # (b, 3, r, r) float32, labels (b,) int64


class Trainer:
    """Trains `pipeline.network`, in place, epoch by epoch.

    history  a record of every epoch so far, including those before a resume.
    best     the epoch with the best validation accuracy of those at the last resolution.
    seconds  wall time of all epochs, those before a resume included, plus the argument `seconds`
             (of the linear probe).

    The ranks of a process group train together, each on a slice of every batch. The result is that
    of one process up to rounding, except for the random numbers of a backbone's dropout.

    Raises OptionError if there are more processes than images in a batch.
    """

    def __init__(
        self,
        pipeline: ImagePipeline,
        images: ImageDataset,
        split: Split,
        options: FinetuneOptions,
        seed: int,
        seconds: float = 0.0,
    ):
        self.pipeline, self.images, self.split, self.options = pipeline, images, split, options
        self.batch_size = min(options.batch_size, len(split.train))
        if self.batch_size < world_size():
            raise OptionError(
                f"processes: expected at most {self.batch_size}, as many as there are images in a "
                f"batch, got {world_size()}"
            )
        self.steps_per_epoch = len(split.train) // self.batch_size
        device = pipeline.device
        network = pipeline.network.to(device).to(memory_format=torch.channels_last)
        if world_size() > 1:  # first: on CUDA it replaces modules
            network = convert_sync_batchnorm(network, device)
        self._eval_modules = freeze(network, options.freeze)
        if options.batch_norm == "keep":
            self._eval_modules += [m for m in network.modules() if isinstance(m, BATCH_NORMS)]
        self._step_network: nn.Module = network  # what a training step runs
        if world_size() > 1:
            self._step_network = DistributedDataParallel(network, forward_sync_buffers=False)
        elif device.startswith("cuda"):
            if can_compile():
                network.compile()
            else:
                logging.getLogger(__name__).warning(NOT_COMPILED)
        self.network = network
        self._optimizer = build_optimizer(network, options)
        self._schedule = build_schedule(self._optimizer, options, self.steps_per_epoch)
        self._ema = build_ema(network, options.ema) if options.ema else None
        self._scaler = torch.amp.GradScaler(device, enabled=pipeline.precision == "float16")
        self._stateful: dict[str, Any] = {  # torch has no common type for what has a state_dict
            "network": network,
            "optimizer": self._optimizer,
            "schedule": self._schedule,
            "scaler": self._scaler,
            **({"average": self._ema} if self._ema else {}),
        }
        self._seed, self._generator = seed, torch.Generator().manual_seed(seed)
        self.history: list[EpochRecord] = []
        self.seconds = seconds
        self.best = BestEpoch(0, NO_SCORE, {})

    def state(self) -> dict:
        """A checkpoint of tensors, numbers and strings."""
        best = {**self.best.score._asdict(), "epoch": self.best.epoch, "network": self.best.weights}
        return {
            **{name: item.state_dict() for name, item in self._stateful.items()},
            "data_digest": self.split.digest,
            "rng": self._generator.get_state(),
            "seconds": self.seconds,
            "history": [vars(record) for record in self.history],
            "best": best,
        }

    def load_state(self, state: dict) -> None:
        """Resume from a checkpoint.

        Raises DataError if it belongs to other images, another network or another recipe.
        """
        try:
            if state["data_digest"] != self.split.digest:
                raise DataError(
                    f"resume: expected the images that this training began with, but those of "
                    f"{self.images.name} have changed since: put them back, or start anew."
                )
            for name, item in self._stateful.items():
                item.load_state_dict(state[name])
            self._generator.set_state(state["rng"])
            self.history = [EpochRecord(**record) for record in state["history"]]
            self.seconds = state["seconds"]
            best = state["best"]
            score = AccuracyAndLoss(best["accuracy"], best["loss"])
            self.best = BestEpoch(best["epoch"], score, best["network"])
        except torch.OutOfMemoryError:
            raise
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise DataError(
                f"resume: the checkpoint does not fit this network and recipe ({error}); start "
                "anew."
            ) from error

    def train(self, on_progress: OnProgress = ignore_progress) -> Iterator[ValidatedEpoch]:
        """Train the remaining epochs; yields each once `state()` includes it.

        If the head starts as the linear probe, epoch 0 is the validation of that start, so training
        never ends with a lower validation accuracy than the start's.

        An epoch's metrics are train/loss and train/accuracy (on augmented images, while training),
        val/loss and val/accuracy (at the epoch's resolution, of the moving average, if there is
        one), lr, and time/waiting_share: the fraction of the time in which training waited for
        data. After the last epoch the network has the weights of the best one and is in eval mode.

        on_progress  called after every batch, in the unit of `work_estimate.epoch_work`.

        Raises DivergedError if a loss is not finite, with the step and the learning rate.
        """
        if self.options.head == "linear_probe" and not self.history:
            yield self._validate(0, self.options.resolution[-1], {}, time.perf_counter())
        done = self.history[-1].epoch if self.history else 0
        for epoch in range(done + 1, self.options.epochs + 1):
            yield self._run_epoch(epoch, on_progress)
        self.network.load_state_dict(self.best.weights)
        self.network.eval()

    def _run_epoch(self, epoch: int, on_progress: OnProgress) -> ValidatedEpoch:
        options, started = self.options, time.perf_counter()
        resolution = options.resolution_at(epoch)
        n_train = self.steps_per_epoch * self.batch_size
        work = epoch_work(options, n_train, len(self.split.val))
        work_before, all_work = sum(work[: epoch - 1]), sum(work)

        def show(n_images: float, detail: str) -> None:
            on_progress(work_before + n_images * resolution**2, all_work, detail)

        def show_validation(n_images: float, *_: object) -> None:
            show(n_train + n_images * relative_validation_time(options), "validation")

        metrics = self._train_epoch(epoch, resolution, show)
        return self._validate(epoch, resolution, metrics, started, show_validation)

    def _validate(
        self,
        epoch: int,
        resolution: int,
        metrics: dict[str, float],
        started: float,
        on_progress: OnProgress = ignore_progress,
    ) -> ValidatedEpoch:
        """Validate an epoch that began at `started` (s); `metrics` are those of its training."""
        eval_model = self.network if self._ema is None else self._ema.module
        val_preprocessing = replace(self.pipeline.preprocessing, resolution=resolution)
        val_pipeline = replace(self.pipeline, network=eval_model, preprocessing=val_preprocessing)
        predictions = val_pipeline.predict(self.images, self.split.val, on_progress)
        score = broadcast(lambda: predictions.score if predictions else NO_SCORE)
        metrics = metrics | {"val/loss": score.loss, "val/accuracy": score.accuracy}
        seconds = time.perf_counter() - started

        is_last_resolution = resolution == self.options.resolution[-1]  # the served model's
        if is_last_resolution and score.beats(self.best.score):
            weights = eval_model.state_dict().items()
            self.best = BestEpoch(epoch, score, {k: v.cpu().clone() for k, v in weights})
        self.seconds += seconds
        self.history.append(EpochRecord(epoch, metrics, seconds))
        return ValidatedEpoch(self.history[-1], predictions)

    def _train_epoch(
        self, epoch: int, resolution: int, show: Callable[[float, str], None]
    ) -> dict[str, float]:
        """Train for one epoch; returns its metrics without those of validation (see `train`)."""
        started = time.perf_counter()
        self.network.train()
        for module in self._eval_modules:
            module.eval()  # keeps BatchNorm's statistics
        batches = self._batches(resolution)
        lr = self._schedule.get_last_lr()[0]
        checked: list[torch.Tensor] = []  # (steps, 2): loss and number of right predictions
        unchecked: list[torch.Tensor] = []
        detail, waited = f"epoch {epoch}", 0.0
        for step in range(1, self.steps_per_epoch + 1):
            wait_started = time.perf_counter()
            images, labels = next(batches)
            waited += time.perf_counter() - wait_started
            # Dropout is seeded by the step and the rank alone, so it is the same after a resume.
            step_seed = self._seed + (epoch * self.steps_per_epoch + step) * LARGE_PRIME + rank()
            unchecked.append(self._train_step(images, labels, step_seed))
            if len(unchecked) == STEPS_BETWEEN_CHECKS or step == self.steps_per_epoch:
                checked.append(all_reduce_sum(torch.stack(unchecked)))
                first_step = (epoch - 1) * self.steps_per_epoch + step - len(unchecked)
                self._raise_if_not_finite(checked[-1][:, 0], first_step, epoch)
                detail = f"epoch {epoch}, train/loss {checked[-1][-1, 0].item():.3f}"
                unchecked = []
            show(step * self.batch_size, detail)
        loss_sum, n_right = torch.cat(checked).double().sum(0).tolist()
        return {
            "train/loss": loss_sum / self.steps_per_epoch,
            "train/accuracy": n_right / (self.steps_per_epoch * self.batch_size),
            "lr": lr,
            "time/waiting_share": waited / (time.perf_counter() - started),
        }

    def _train_step(self, images: torch.Tensor, labels: torch.Tensor, seed: int) -> torch.Tensor:
        """One update. Returns (2,): this rank's share of the loss, and its number of right answers.

        images, labels  this rank's slice of the batch: (b, 3, r, r) float32, (b,) int64.
        seed            of dropout.
        """
        with self.pipeline.autocast(), seeded(seed, self.pipeline.device):
            logits = self._step_network(images)  # (b, classes)
        smoothing = self.options.label_smoothing
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
        loss = loss * (len(labels) / self.batch_size)  # sums over the ranks to the batch's loss
        self._optimizer.zero_grad()
        # DistributedDataParallel averages gradients over the ranks.
        self._scaler.scale(loss * world_size()).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._schedule.step()
        if self._ema is not None:
            self._ema.update_parameters(self.network)
        return torch.stack([loss.detach(), (logits.argmax(1) == labels).sum()])

    def _batches(self, resolution: int) -> Iterator[Batch]:
        """This rank's slice of each batch of one epoch, in random order.

        An incomplete last batch is dropped. Augmentation is drawn for the whole batch, so that
        it does not depend on the number of ranks.
        """
        rows, size, device = self.split.train, self.batch_size, self.pipeline.device
        local = local_slice(size)
        train_preprocessing = replace(
            self.pipeline.preprocessing, resolution=resolution, crop_pct=1.0
        )
        order = rows[torch.randperm(len(rows), generator=self._generator).numpy()]
        batches = list(order[: self.steps_per_epoch * size].reshape(-1, size))  # (batch,) each
        for batch, pixels in zip(batches, iter_batches(self.images, batches, device), strict=True):
            labels = torch.from_numpy(self.images.labels[batch][local]).to(device)  # (b,)
            # (batch, 3, side, side) or (batch, 3, r, r)
            augmented = augment(pixels, self.options.augment, resolution, self._generator)
            yield train_preprocessing(augmented[local]), labels  # (b, 3, r, r)

    def _raise_if_not_finite(self, losses: torch.Tensor, first_step: int, epoch: int) -> None:
        is_finite = losses.isfinite().cpu().numpy()
        if not is_finite.all():
            step, lr = first_step + int(np.argmin(is_finite)), self._schedule.get_last_lr()[0]
            raise DivergedError(
                f"the loss is not finite at step {step} (epoch {epoch}), where the learning rate "
                f"was about {lr:g}; try a smaller one, such as lr={self.options.lr / 10:g}."
            )
