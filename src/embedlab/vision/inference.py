"""Inference: a network's outputs for images of a data set, in batches and without gradients."""

from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import nn

from embedlab.distributed.collectives import gather, local_slice
from embedlab.progress import OnProgress, ignore_progress
from embedlab.vision.data.batches import iter_batches
from embedlab.vision.data.images import ImageDataset
from embedlab.vision.evaluation.metrics import Predictions, predictions_of
from embedlab_serving.network import Preprocessing, forward

BATCH_SIZE = 250  # images of up to 224 px; fewer above


@dataclass(frozen=True)
class ImagePipeline:
    """A network with or without a head, and how images go through it.

    preprocessing  for validation and test images; training uses the same mean and std.
    precision      dtype of the layers' products: float32, bfloat16 or float16.
    flip_view      test-time augmentation: mean output of an image and its mirror image.
    """

    network: nn.Module
    preprocessing: Preprocessing
    device: str = "cpu"
    precision: str = "float32"
    flip_view: bool = False

    def autocast(self) -> torch.autocast:
        """Automatic mixed precision; nothing for float32."""
        kind, dtype = torch.device(self.device).type, getattr(torch, self.precision)
        return torch.autocast(kind, dtype=dtype, enabled=self.precision != "float32")

    def compute_outputs(
        self, images: ImageDataset, rows: np.ndarray, on_progress: OnProgress = ignore_progress
    ) -> np.ndarray | None:
        """(n, outputs) float32: features of a network without a head, logits of one with a head.

        Each rank computes some of the batches; rank 0 gets all outputs, the others get None.
        The network computes in eval mode and stays in it.
        """
        # Activations take memory in proportion to the pixels.
        size = min(BATCH_SIZE, BATCH_SIZE * 224**2 // self.preprocessing.resolution**2)
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        batches = batches[local_slice(len(batches))]
        outputs, n_done, n_local = [], 0, sum(map(len, batches))
        self.network.eval()
        with torch.inference_mode(), self.autocast():
            for pixels in iter_batches(images, batches, self.device):
                inputs = self.preprocessing(pixels)  # (b, 3, r, r)
                output = forward(self.network, inputs, self.flip_view)  # (b, outputs)
                outputs.append(output.float().cpu().numpy())
                n_done += len(pixels)
                on_progress(n_done * len(rows) / n_local, len(rows))  # others are about as far
        by_rank = gather(outputs)
        return None if by_rank is None else np.concatenate(list(chain.from_iterable(by_rank)))

    def predict(
        self, images: ImageDataset, rows: np.ndarray, on_progress: OnProgress = ignore_progress
    ) -> Predictions | None:
        """Class probabilities for each row, at rank 0; None at the others. Needs a head."""
        logits = self.compute_outputs(images, rows, on_progress)
        return None if logits is None else predictions_of(logits, images.labels, rows)
