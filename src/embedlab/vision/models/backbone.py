"""An ImageNet network of torchvision's ResNet family, and what belongs to its weights.

In: a network's name and where its weights come from. Out: the network without its last layer, the
preprocessing constants of the weights, and a digest that names them.
"""

import hashlib
import os
import pickle
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch
from torch import nn
from torch.hub import HASH_REGEX
from torchvision import models

from embedlab.datasets.cache import cache_folder
from embedlab.errors import DataError, DownloadError
from embedlab.vision.options import FREEZE
from embedlab_serving.hashing import sha256_of

IMAGENET, NO_WEIGHTS = "imagenet", "none"
HEAD = ("fc.weight", "fc.bias")


@dataclass(frozen=True)
class Backbone:
    """A network whose last layer is gone: `network(batch)` is the embedding.

    n_features  length of the embedding.
    digest      sha256 over name and weights.
    mean, std   of the images that the weights were trained on, a colour channel each.
    """

    name: str
    network: nn.Module
    n_features: int
    digest: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_backbone(name: str, weights: str, seed: int = 0) -> Backbone:
    """`weights` is `imagenet` (torchvision's, downloaded once and checked), `none` (random, from
    `seed`) or the path of a state dict in torchvision's layout.

    The last layer's weights are not looked at: a file with any number of classes will do.
    Raises DataError for a file that is none or does not fit, DownloadError.
    """
    published = models.get_model_weights(name).DEFAULT
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = models.get_model(name)
    if weights == IMAGENET:
        _load(network, _download(published), f"{name}'s own weights")
    elif weights != NO_WEIGHTS:
        _load(network, _read(weights), weights)
    n_features = network.fc.in_features
    network.fc = nn.Identity()
    preset = published.transforms()
    digest = _digest(name, network)
    return Backbone(name, network, n_features, digest, tuple(preset.mean), tuple(preset.std))


def new_head(backbone: Backbone, n_classes: int, seed: int) -> nn.Linear:
    """A last layer in torch's own random start, from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(backbone.n_features, n_classes)


def classifier(backbone: Backbone, head: nn.Linear) -> nn.Module:
    """The backbone's own network (which is used up by it) with `head` as its last layer, `fc`."""
    backbone.network.fc = head
    return backbone.network


def freeze(network: nn.Module, what: str) -> list[nn.Module]:
    """Take gradients from the parts that stay; returns them, for `keep_frozen`."""
    parts = (
        ("stem", ("conv1", "bn1")),
        ("stage1", ("layer1",)),
        ("stage2", ("layer2",)),
        ("all-but-last-stage", ("layer3",)),
        ("all-but-head", ("layer4",)),
    )
    named = [names for part, names in parts if FREEZE.index(part) <= FREEZE.index(what)]
    frozen = [network.get_submodule(name) for names in named for name in names]
    for module in frozen:
        module.requires_grad_(False)
    return frozen


def train_mode(network: nn.Module, frozen: Iterable[nn.Module]) -> None:
    """Training mode, but for what is frozen: BatchNorm statistics there stay as they are."""
    network.train()
    for module in frozen:
        module.eval()


def _download(published: models.WeightsEnum) -> dict[str, torch.Tensor]:
    folder = cache_folder() / "weights"
    file = folder / Path(published.url).name
    try:
        # torch compares a file's hash with its name when it downloads it, not when it finds it.
        if file.is_file() and not sha256_of(file).startswith(HASH_REGEX.search(file.name)[1]):
            file.unlink()
        return published.get_state_dict(
            model_dir=str(folder), check_hash=True, progress=sys.stderr.isatty(), weights_only=True
        )
    except (URLError, OSError, RuntimeError) as error:
        reason = getattr(error, "reason", error)
        raise DownloadError(
            f"Could not download {published.url} ({reason}); try again later, or fetch it by hand "
            "and pass its absolute path: weights=<path>."
        ) from error


def _read(path: str) -> dict[str, torch.Tensor]:
    file = Path(os.path.expanduser(path))
    if not file.is_file():
        raise DataError(
            f"weights: expected imagenet, none or the path of a state dict; there is no file "
            f"{path!r} in {os.getcwd()}: give an absolute path."
        )
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError):
        raise DataError(
            f"weights: {path} is not a state dict that torch loads with weights_only=True; save "
            "one with torch.save(network.state_dict(), path)."
        ) from None
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(map(torch.is_tensor, loaded.values())):
        raise DataError(f"weights: {path} holds no state dict (a dict of names and tensors).")
    return loaded


def _load(network: nn.Module, weights: dict[str, torch.Tensor], source: str) -> None:
    own = network.state_dict()
    weights = {key: value for key, value in weights.items() if key not in HEAD}
    # Older files have no counters of batches; torch starts them at 0.
    missing = [
        key
        for key in own
        if key not in weights and key not in HEAD and not key.endswith("num_batches_tracked")
    ]
    unknown = [key for key in weights if key not in own]
    reshaped = [
        f"{key} {tuple(weights[key].shape)} for {tuple(own[key].shape)}"
        for key in weights
        if key in own and weights[key].shape != own[key].shape
    ]
    faults = [
        f"{len(keys)} {what} ({', '.join(keys[:4])}{', …' if len(keys) > 4 else ''})"
        for what, keys in (
            ("missing", missing),
            ("unknown", unknown),
            ("of another shape", reshaped),
        )
        if keys
    ]
    if faults:
        raise DataError(
            f"weights: {source} does not fit the backbone: keys: {'; '.join(faults)}; choose the "
            "backbone that the file was made for, in torchvision's layout."
        )
    network.load_state_dict(weights, strict=False)


def _digest(name: str, network: nn.Module) -> str:
    digest = hashlib.sha256(name.encode())
    for key, value in network.state_dict().items():
        digest.update(key.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()
