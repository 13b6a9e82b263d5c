"""A backbone: its weights, from a state dict or torchvision; its head; and what is frozen."""

import hashlib
import http.server
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import models
from torchvision.models import ResNet18_Weights
from toy_dataset import tampered

from embedlab.datasets.cache import cache_folder
from embedlab.errors import DataError, DownloadError
from embedlab.vision.backbone import Backbone, attach_head, freeze, load_backbone, new_head


@pytest.fixture
def backbone():
    return load_backbone("resnet18", "none", seed=1)


def test_constants_come_from_the_weights_object(backbone):
    preset = ResNet18_Weights.DEFAULT.transforms()
    assert (backbone.mean, backbone.std) == (tuple(preset.mean), tuple(preset.std))
    assert backbone.n_features == 512


def test_a_state_dict_is_loaded_whatever_its_number_of_classes(tmp_path):
    other = models.resnet18(num_classes=3)
    torch.save(other.state_dict(), tmp_path / "three.pth")
    loaded = load_backbone("resnet18", str(tmp_path / "three.pth"))
    ours, theirs = loaded.network.state_dict(), other.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    # The digest identifies the weights, so random weights have another one.
    assert loaded.digest == load_backbone("resnet18", str(tmp_path / "three.pth")).digest
    assert loaded.digest != load_backbone("resnet18", "none").digest


def test_a_densenet_is_loaded_by_the_names_of_its_published_weights(tmp_path):
    weights = models.densenet121().state_dict()
    old = {re.sub(r"(denselayer\d+\.[a-z]+)([12]\.)", r"\1.\2", k): v for k, v in weights.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "densenet.pth")
    loaded = load_backbone("densenet121", str(tmp_path / "densenet.pth")).network.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in loaded.items())


def test_a_file_that_does_not_fit_says_which_keys_are_missing(tmp_path):
    weights = models.resnet18().state_dict()
    del weights["layer1.0.conv1.weight"], weights["bn1.bias"]
    weights["extra"] = torch.zeros(1)
    weights["conv1.weight"] = torch.zeros(1)
    torch.save(weights, tmp_path / "cut.pth")
    with pytest.raises(DataError) as error:
        load_backbone("resnet18", str(tmp_path / "cut.pth"))
    missing = 'Missing key(s) in state_dict: "bn1.bias", "layer1.0.conv1.weight".'
    for part in (missing, 'Unexpected key(s) in state_dict: "extra".', "mismatch for conv1.weight"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["resnet50", "wide_resnet50_2"])
def test_weights_of_another_network_are_refused_in_a_sentence(tmp_path, name):
    torch.save(models.resnet18().state_dict(), tmp_path / "18.pth")
    with pytest.raises(DataError, match="choose the backbone that the file was made for") as error:
        load_backbone(name, str(tmp_path / "18.pth"))
    assert len(str(error.value)) < 700


def test_a_state_dict_without_counters_of_batches_or_inside_another_dict_is_loaded(tmp_path):
    weights = models.resnet18().state_dict()
    without = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    torch.save({"state_dict": without, "epoch": 3}, tmp_path / "old.pth")
    loaded = load_backbone("resnet18", str(tmp_path / "old.pth")).network.state_dict()
    assert all(torch.equal(loaded[key], weights[key]) for key in loaded)
    for content in ({"epoch": 3}, {0: torch.zeros(1)}):
        torch.save(content, tmp_path / "none.pth")
        with pytest.raises(DataError, match="is not a state dict that torch loads"):
            load_backbone("resnet18", str(tmp_path / "none.pth"))


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04"])
def test_a_file_that_is_not_a_state_dict_is_refused(tmp_path, content):
    (tmp_path / "broken.pth").write_bytes(content)
    with pytest.raises(DataError, match="is not a state dict that torch loads"):
        load_backbone("resnet18", str(tmp_path / "broken.pth"))


class Planted:
    def __reduce__(self):
        return print, ("this must not run",)


def test_code_in_a_weights_file_is_not_run(tmp_path, capsys):
    torch.save({"fc.weight": Planted()}, tmp_path / "planted.pth")
    with pytest.raises(DataError, match="weights_only=True"):
        load_backbone("resnet18", str(tmp_path / "planted.pth"))
    assert capsys.readouterr().out == ""


def test_a_missing_file_and_a_failed_download_say_what_to_do(monkeypatch):
    with pytest.raises(DataError, match=r"no file 'nowhere.pth'.*give an absolute path"):
        load_backbone("resnet18", "nowhere.pth")

    def refused(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(type(ResNet18_Weights.DEFAULT), "get_state_dict", refused)
    with pytest.raises(DownloadError, match=r"no route to host.*weights=<path>"):
        load_backbone("resnet18", "imagenet")


@pytest.fixture
def published(tmp_path, monkeypatch) -> Path:
    """A file at the URL of torchvision's weights of ResNet-18, in their place."""
    file = tmp_path / "weights.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        torch.save(models.resnet18().state_dict(), file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    file = file.rename(tmp_path / f"resnet18-{digest[:8]}.pth")
    monkeypatch.setattr(ResNet18_Weights.DEFAULT.value, "url", file.as_uri())
    return file


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize("damage", [truncated, tampered])
def test_weights_are_checked_when_they_come_and_when_they_are_found(published, damage):
    right = published.read_bytes()
    published.write_bytes(damage(right))
    with pytest.raises(DownloadError, match=r"^Could not download .*hash.*weights=<path>\.$"):
        load_backbone("resnet18", "imagenet")
    assert not [path for path in cache_folder().rglob("*") if path.is_file()]

    published.write_bytes(right)
    digest = load_backbone("resnet18", "imagenet").digest
    (cached,) = (path for path in cache_folder().rglob("*") if path.is_file())
    cached.write_bytes(damage(right))
    assert load_backbone("resnet18", "imagenet").digest == digest  # fetched again
    assert cached.read_bytes() == right
    published.unlink()
    assert load_backbone("resnet18", "imagenet").digest == digest  # not fetched again


class Failing(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(500)

    def log_message(self, *_):
        pass


def test_no_network_and_a_server_that_fails_are_a_sentence_each(published, monkeypatch):
    weights, right = ResNet18_Weights.DEFAULT.value, published.as_uri()
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    with http.server.HTTPServer(("127.0.0.1", 0), Failing) as server:
        address = f"http://127.0.0.1:{server.server_port}/{published.name}"
        monkeypatch.setattr(weights, "url", address)
        answer = threading.Thread(target=server.handle_request)
        answer.start()
        with pytest.raises(DownloadError, match=r"\(Internal Server Error\); try again later"):
            load_backbone("resnet18", "imagenet")
        answer.join()
    with pytest.raises(DownloadError, match=r"Connection refused\); try again later, or fetch"):
        load_backbone("resnet18", "imagenet")
    assert not [path for path in cache_folder().rglob("*") if path.is_file()]
    monkeypatch.setattr(weights, "url", right)
    load_backbone("resnet18", "imagenet")


def test_all_but_the_head_of_a_resnet_is_frozen_as_by_its_stages():
    network = models.get_model("resnet18")
    freeze(network, "all-but-head")
    trained = {name for name, value in network.named_parameters() if value.requires_grad}
    assert trained == {"fc.weight", "fc.bias"}


def test_a_backbones_network_is_what_the_head_is_put_on():
    backbone = load_backbone("resnet18", "none", seed=3)
    assert isinstance(backbone, Backbone)
    net = attach_head(backbone, new_head(backbone, 7, seed=0))
    plain = models.resnet18(num_classes=7).eval()
    plain.load_state_dict(net.state_dict())
    image = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert np.array_equal(plain(image), net.eval()(image))
