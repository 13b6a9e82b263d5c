"""Images through a network, in batches, without gradients.

In: a network, rows of a `ImageDataset`. Out: what the network says, float32 on the CPU.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import zip_longest

import numpy as np
import torch
from torch import nn

from embedlab.distributed.collectives import gather, rank, world_size
from embedlab.errors import OptionError
from embedlab.progress import OnCount
from embedlab.vision.data.images import read_ahead
from embedlab.vision.options import PRECISIONS
from embedlab_serving.preprocess import Preprocessing

BATCH = 250


def choose_precision(name: str, device: str) -> str:
    """`auto` is bfloat16 where the processor computes in it, float16 on older GPUs, else float32.

    Weights, their updates and all sums stay float32; it is the layers' products that are shorter.
    Raises OptionError for a precision that the device has not.
    """
    if name not in PRECISIONS:
        raise OptionError(f"precision: expected one of {', '.join(PRECISIONS)}, got {name!r}")
    on_gpu = device.startswith("cuda")
    if name == "auto":
        if on_gpu:
            return "bfloat16" if torch.cuda.is_bf16_supported(False) else "float16"
        return "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"
    if name == "float16" and not on_gpu:
        raise OptionError("precision: float16 needs a GPU; take float32 or bfloat16 on the CPU")
    return name


def precision_context(precision: str, device: str) -> AbstractContextManager:
    """Automatic mixed precision; nothing for float32."""
    kind, dtype = torch.device(device).type, getattr(torch, precision)
    return torch.autocast(kind, dtype=dtype, enabled=precision != "float32")


def take(images: np.ndarray, rows: np.ndarray, device: str) -> torch.Tensor:
    """Those images as a (n, 3, side, side) uint8 tensor on the device."""
    return torch.from_numpy(np.ascontiguousarray(images[rows])).to(device, non_blocking=True)


def iter_batches(
    images: np.ndarray, parts: Sequence[np.ndarray], device: str
) -> Iterator[torch.Tensor]:
    """The images of one part after the other; the disk reads the next while one is used."""
    for part, following in zip_longest(parts, parts[1:]):
        if following is not None:
            read_ahead(images, following)
        yield take(images, part, device)


def predict_logits(
    network: nn.Module,
    images: np.ndarray,
    rows: np.ndarray,
    preprocessing: Preprocessing,
    device: str,
    precision: str,
    flip_view: bool = False,
    on_count: OnCount | None = None,
) -> np.ndarray | None:
    """(n, outputs) float32: the network's output for each row, in eval mode.

    flip_view  the mean over the image and its mirror image.
    Several processes do this together, a batch each in turn; what they found is at the first, and
    None at the others.
    The network's modes and statistics are afterwards as they were.
    """
    parts = list(_parts(rows))
    mine = parts[rank() :: world_size()]
    outputs = []
    with evaluating(network), torch.inference_mode(), precision_context(precision, device):
        for pixels in iter_batches(images, mine, device):
            batch = preprocessing(pixels)  # (b, 3, r, r)
            output = network(batch)  # (b, outputs)
            if flip_view:
                output = (output + network(batch.flip(-1))) / 2
            outputs.append(output.float().cpu().numpy())
            if on_count is not None:
                n_done = sum(map(len, outputs)) * world_size()  # the others are about as far
                on_count(min(n_done, len(rows)), len(rows))
    of_each = gather(outputs)
    if of_each is None:
        return None
    return np.concatenate([of_each[i % world_size()][i // world_size()] for i in range(len(parts))])


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Eval mode inside; every module gets its own mode back."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _parts(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), BATCH):
        yield rows[start : start + BATCH]
