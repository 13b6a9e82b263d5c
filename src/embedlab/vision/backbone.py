"""An ImageNet classifier of torchvision's, and the constants of its weights.

In: a network's name and where its weights come from. Out: the network without its last layer, the
preprocessing constants of the weights, and a digest of name and weights.
"""

import hashlib
import os
import pickle
import re
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch
from torch import nn
from torch.hub import HASH_REGEX
from torchvision import models

from embedlab.datasets.cache import cache_folder
from embedlab.distributed.collectives import local_main_first
from embedlab.errors import DataError, DownloadError
from embedlab.vision.options import FREEZE, IMAGENET, NO_WEIGHTS
from embedlab.vision.seeds import seeded
from embedlab_serving.hashing import sha256_of
from embedlab_serving.network import Preprocessing, head_name

# The errors of reading a file that is not a state dict depend on what it is.
NO_STATE_DICT = (
    pickle.UnpicklingError, RuntimeError, EOFError, OSError,
    AttributeError, KeyError, TypeError, ValueError,
)  # fmt: skip
MAX_REASON = 400  # characters
# Published DenseNets have `denselayer1.norm.1.weight` for the layer that is `norm1` today.
OLD_DENSE_KEY = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


@dataclass(frozen=True)
class Backbone:
    """A network without its last layer: `network(batch)` is the embedding.

    head_name   name of the last layer, which `nn.Identity` replaces in the network.
    n_features  length of the embedding.
    digest      sha256 of name and weights.
    mean, std   of the images that the weights were trained on, for each colour channel.
    """

    network: nn.Module
    head_name: str
    n_features: int
    digest: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def preprocessing(self, resolution: int, crop_pct: float) -> Preprocessing:
        """The deterministic preprocessing that these weights expect."""
        return Preprocessing(resolution, crop_pct, self.mean, self.std)


def load_backbone(name: str, weights: str, seed: int = 0) -> Backbone:
    """Load a classifier of torchvision without its last layer.

    weights  `imagenet` (torchvision's, downloaded once and checked), `none` (random, from `seed`)
             or the path of a state dict in torchvision's layout, with any number of classes.

    Raises DataError if the file is missing, is no state dict or fits another network, and
    DownloadError if torchvision's weights cannot be fetched.
    """
    pretrained = models.get_model_weights(name).DEFAULT
    with seeded(seed):
        network = models.get_model(name)
    head = head_name(network)
    n_features = network.get_submodule(head).in_features
    network.set_submodule(head, nn.Identity())
    if weights == IMAGENET:
        with local_main_first():
            state_dict = _download_state_dict(pretrained)
        _load_state_dict(network, head, state_dict, f"{name}'s own weights")
    elif weights != NO_WEIGHTS:
        _load_state_dict(network, head, _read_state_dict(weights), weights)
    preset = pretrained.transforms()
    digest = _digest(name, network)
    return Backbone(network, head, n_features, digest, tuple(preset.mean), tuple(preset.std))


def new_head(backbone: Backbone, n_classes: int, seed: int) -> nn.Linear:
    """A last layer with torch's random initialisation, from `seed`."""
    with seeded(seed):
        return nn.Linear(backbone.n_features, n_classes)


def attach_head(backbone: Backbone, head: nn.Linear) -> nn.Module:
    """The backbone's network, changed in place, with `head` as its last layer."""
    backbone.network.set_submodule(backbone.head_name, head)
    return backbone.network


def freeze(network: nn.Module, up_to: str) -> list[nn.Module]:
    """Disable the gradients of the modules up to `up_to`, a key of FREEZE; returns them."""
    if up_to == "all-but-head":
        head = head_name(network)
        network.requires_grad_(False).get_submodule(head).requires_grad_(True)
        return [module for name, module in network.named_modules() if not head.startswith(name)]
    frozen = []
    for stage, names in FREEZE.items():
        frozen += [network.get_submodule(name).requires_grad_(False) for name in names]
        if stage == up_to:
            break
    return frozen


def _download_state_dict(pretrained: models.WeightsEnum) -> dict[str, torch.Tensor]:
    folder = cache_folder() / "weights"
    file = folder / Path(pretrained.url).name
    try:
        # torch compares a file's hash with its name after a download, but not if it finds the file.
        expected = HASH_REGEX.search(file.name)
        if expected and file.is_file() and not sha256_of(file).startswith(expected[1]):
            file.unlink()
        return pretrained.get_state_dict(
            model_dir=str(folder), check_hash=True, progress=sys.stderr.isatty(), weights_only=True
        )
    except (URLError, OSError, RuntimeError) as error:
        reason = getattr(error, "reason", error)
        raise DownloadError(
            f"Could not download {pretrained.url} ({reason}); try again later, or fetch it by hand "
            "and pass its absolute path: weights=<path>."
        ) from error


def _read_state_dict(path: str) -> dict[str, torch.Tensor]:
    file = Path(os.path.expanduser(path))
    if not file.is_file():
        raise DataError(
            f"weights: expected imagenet, none or the path of a state dict; there is no file "
            f"{path!r} in {os.getcwd()}: give an absolute path."
        )
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
        loaded = loaded.get("state_dict", loaded)
        are_names = all(isinstance(name, str) for name in loaded)
        if not (are_names and all(map(torch.is_tensor, loaded.values()))):
            raise ValueError
        return loaded
    except NO_STATE_DICT:
        raise DataError(
            f"weights: {path} is not a state dict that torch loads with weights_only=True; save "
            "one with torch.save(network.state_dict(), path)."
        ) from None


def _load_state_dict(
    network: nn.Module, head: str, weights: dict[str, torch.Tensor], source: str
) -> None:
    """Load all but the last layer; batch counters that the weights lack start at 0.

    torch does that for a dict without version metadata, such as the one made here.
    """
    weights = {OLD_DENSE_KEY.sub(r"\1\2", key): value for key, value in weights.items()}
    try:
        network.load_state_dict({k: v for k, v in weights.items() if not k.startswith(f"{head}.")})
    except RuntimeError as error:
        reason = textwrap.shorten(str(error).partition(":")[2], MAX_REASON, placeholder=" …")
        raise DataError(
            f"weights: {source} does not fit the backbone: {reason}; choose the backbone that the "
            "file was made for, in torchvision's layout."
        ) from None


def _digest(name: str, network: nn.Module) -> str:
    digest = hashlib.sha256(name.encode())
    for key, value in network.state_dict().items():
        digest.update(key.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()
