"""Inference: a network's outputs for images of a data set, in batches and without gradients."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np
import torch
from torch import nn

from embedlab.distributed.collectives import gather, local_slice
from embedlab.errors import OptionError
from embedlab.progress import OnProgress, ignore_progress
from embedlab.vision.data.images import ImageDataset
from embedlab.vision.evaluation.metrics import Predictions, predictions_of
from embedlab_serving.network import Preprocessing, forward

BATCH_SIZE = 250
CPU_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # instruction sets of x86 and of Arm


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
        batches = [rows[start : start + BATCH_SIZE] for start in range(0, len(rows), BATCH_SIZE)]
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


def choose_precision(name: str, device: str) -> str:
    """Resolve `auto`: bfloat16 if the processor has it, float16 on older GPUs, else float32.

    Weights, their updates and all sums stay float32; only the layers' products lose precision.
    Raises OptionError for float16 on a CPU.
    """
    on_gpu = device.startswith("cuda")
    if name == "float16" and not on_gpu:
        raise OptionError("precision: float16 needs a GPU; take float32 or bfloat16 on the CPU")
    if name != "auto":
        return name
    if on_gpu:
        return "bfloat16" if torch.cuda.is_bf16_supported(False) else "float16"
    capabilities = torch.cpu.get_capabilities()
    return "bfloat16" if any(map(capabilities.get, CPU_BFLOAT16)) else "float32"


def iter_batches(
    images: ImageDataset, batches: Sequence[np.ndarray], device: str
) -> Iterator[torch.Tensor]:
    """The pixels of one batch after the other, (n, 3, side, side) uint8 on the device.

    batches  the rows of each batch.

    The operating system reads the next batch from the disk while the caller uses the current one.
    """
    for rows, next_rows in zip_longest(batches, batches[1:]):
        if next_rows is not None:
            images.read_ahead(next_rows)
        yield torch.from_numpy(images.pixels[rows]).to(device, non_blocking=True)
