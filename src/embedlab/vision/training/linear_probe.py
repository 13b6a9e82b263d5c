"""Linear probe: multi-class logistic regression on standardised features (one `nn.Linear`).

In: features and labels of training and validation images. Out: the weights of the epoch with the
best validation accuracy, folded into a head that takes the features without standardisation.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from embedlab.distributed.collectives import broadcast
from embedlab.errors import DivergedError
from embedlab.progress import EpochRecord, OnProgress, ignore_progress
from embedlab.vision.backbone import Backbone
from embedlab.vision.data.images import ImageDataset
from embedlab.vision.data.splits import Split
from embedlab.vision.evaluation.metrics import NO_SCORE, mcnemar, predictions_of
from embedlab.vision.features import Features, extract_features
from embedlab.vision.inference import ImagePipeline
from embedlab.vision.options import LinearProbeOptions
from embedlab.vision.training.epochs import BestEpoch, ValidatedEpoch
from embedlab.vision.training.optim import build_optimizer

MIRROR_LOSS, MIRROR_SIGNIFICANCE = 0.05, 0.01  # of accuracy; p value


class LinearProbe:
    """A logistic regression on the features of the training images, to be fitted epoch by epoch.

    history  a record of every epoch so far.
    best     the epoch with the best validation accuracy so far.
    seconds  wall time of all epochs, and of the features.
    """

    def __init__(
        self,
        features: Features,
        images: ImageDataset,
        split: Split,
        options: LinearProbeOptions,
        seed: int,
        device: str,
    ):
        self.images, self.split, self.options = images, split, options
        self._generator = torch.Generator().manual_seed(seed)
        x = torch.from_numpy(features.parts["train"]).to(device)  # (n, d)
        x_val = torch.from_numpy(features.parts["val"]).to(device)
        self._y = torch.from_numpy(images.labels[split.train]).to(device)  # (n,)
        self._mean, self._std = x.mean(0), x.std(0).clamp_min(1e-6)  # (d,)
        self._x, self._x_val = (x - self._mean) / self._std, (x_val - self._mean) / self._std
        self._layer = nn.Linear(x.shape[1], len(images.classes), device=device)
        nn.init.zeros_(self._layer.weight)  # convex: any start will do, this one favours no class
        nn.init.zeros_(self._layer.bias)
        self._optimizer = build_optimizer(self._layer, options)
        self.history: list[EpochRecord] = []
        self.best = BestEpoch(0, NO_SCORE, {})
        self.seconds = features.seconds

    def train(self) -> Iterator[ValidatedEpoch]:
        """Train all epochs; yields each with train/loss, train/accuracy, val/loss, val/accuracy.

        Metrics are those of the weights at the epoch's end; losses exclude the penalty.
        Raises DivergedError if a loss is not finite.
        """
        for epoch in range(1, self.options.epochs + 1):
            started = time.perf_counter()
            self._train_epoch()
            with torch.no_grad():
                logits = self._layer(self._x)  # (n, classes)
                loss = F.cross_entropy(logits, self._y).item()
                accuracy = (logits.argmax(1) == self._y).float().mean().item()
                val_logits = self._layer(self._x_val).cpu().numpy()  # (n_val, classes)
            if not np.isfinite(loss):
                lr = self._optimizer.param_groups[0]["lr"]
                raise DivergedError(
                    f"{self.options.label} diverged: the loss is not finite after epoch {epoch}; "
                    f"try a smaller learning rate, such as lr={lr / 10:g}."
                )
            predictions = predictions_of(val_logits, self.images.labels, self.split.val)
            score = predictions.score
            if score.beats(self.best.score):
                weights = {k: v.clone() for k, v in self._layer.state_dict().items()}
                self.best = BestEpoch(epoch, score, weights)
            seconds = time.perf_counter() - started
            self.seconds += seconds
            metrics = {"train/loss": loss, "train/accuracy": accuracy}
            metrics |= {"val/loss": score.loss, "val/accuracy": score.accuracy}
            self.history.append(EpochRecord(epoch, metrics, seconds))
            yield ValidatedEpoch(self.history[-1], predictions)

    def head(self) -> nn.Linear:
        """The best epoch's weights as a head on the CPU, with the standardisation folded in.

        W (f − m)/s + b = (W/s) f + (b − (W/s) m)
        """
        weight = self.best.weights["weight"] / self._std
        bias = self.best.weights["bias"] - weight @ self._mean
        folded = nn.Linear(self._layer.in_features, self._layer.out_features)
        folded.load_state_dict({"weight": weight, "bias": bias})
        return folded

    def _train_epoch(self) -> None:
        n = len(self._x)
        order = torch.randperm(n, generator=self._generator).to(self._x.device)
        batches: Sequence[torch.Tensor | slice] = order.split(self.options.batch_size_for(n))
        if self.options.optimizer == "lbfgs":
            batches = [slice(None)]
        for rows in batches:
            self._optimizer.step(partial(self._loss_and_gradient, rows))

    def _loss_and_gradient(self, rows: torch.Tensor | slice) -> float:
        self._optimizer.zero_grad()
        loss = F.cross_entropy(self._layer(self._x[rows]), self._y[rows])
        if self.options.optimizer == "lbfgs":
            # Weight decay as in torch's other optimizers: the gradient of (λ/2) ‖W‖² is λ W.
            loss = loss + self.options.weight_decay / 2 * self._layer.weight.square().sum()
        loss.backward()
        return loss.item()


def probe_logits(head: nn.Linear, features: np.ndarray) -> np.ndarray:
    """The head's logits for features (n, d): (n, classes) float32."""
    with torch.inference_mode():
        return head(torch.from_numpy(features)).numpy()


class ProbedHead(NamedTuple):
    """The head of a linear probe.

    seconds  that the probe took, with its features.
    is_mirror_sensitive
             whether it recognises mirrored validation images less well, as with digits, letters or
             left and right hands: by more than MIRROR_LOSS of them, significantly.
    """

    head: nn.Linear
    seconds: float
    is_mirror_sensitive: bool


def probe_head(
    backbone: Backbone,
    pipeline: ImagePipeline,
    images: ImageDataset,
    split: Split,
    compares_mirrored: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> ProbedHead:
    """A linear probe on the backbone's frozen features.

    Fine-tuning from a random head distorts pretrained features before the head has learnt to use
    them (LP-FT; A. Kumar et al., ICLR 2022).

    pipeline  of the backbone without its last layer. The features are those that the entry point
              `extract_features` computes and caches by default, without test-time augmentation.
    compares_mirrored
              whether to find out `is_mirror_sensitive`; otherwise it is False.
    """
    without_flip = replace(pipeline, flip_view=False)
    features = extract_features(backbone.digest, without_flip, images, split, on_progress)
    started, x_mirrored = time.perf_counter(), None
    if compares_mirrored:
        mirror = pipeline.network.register_forward_pre_hook(lambda _, x: (x[0].flip(-1),))
        x_mirrored = without_flip.compute_outputs(images, split.val, on_progress)
        mirror.remove()
    mirrored_seconds = time.perf_counter() - started

    def fit() -> ProbedHead:
        assert features is not None, "rank 0 has the features"
        options = LinearProbeOptions()
        probe = LinearProbe(features, images, split, options, 0, pipeline.device)
        for _ in probe.train():
            pass
        head, is_mirror_sensitive = probe.head(), False
        if x_mirrored is not None:
            plain, mirrored = (
                predictions_of(probe_logits(head, x), images.labels, split.val)
                for x in (features.parts["val"], x_mirrored)
            )
            loss = plain.score.accuracy - mirrored.score.accuracy
            is_significant = mcnemar(plain, mirrored).p_value < MIRROR_SIGNIFICANCE
            is_mirror_sensitive = loss > MIRROR_LOSS and is_significant
        return ProbedHead(head, probe.seconds + mirrored_seconds, is_mirror_sensitive)

    return broadcast(fit)
