"""The parameter `dataset`, and CIFAR-10 from an archive of twelve images."""

import hashlib
import http.server
import io
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT
from sentences import one_sentence

from embedlab.datasets import download, image_source
from embedlab.datasets.cache import cache_folder
from embedlab.datasets.image_source import (
    CIFAR10,
    FOLDER,
    ImageSource,
    check_dataset_argument,
    locate_images,
)
from embedlab.errors import DataError, DownloadError
from embedlab.vision.data.images import read_images


def test_an_argument_is_passed_as_it_is(tmp_path):
    for text in ("sample", "cifar10", f"folder:{tmp_path}"):
        assert check_dataset_argument(text) == text


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("cifar100", "got 'cifar100'; relative"),
        ("", "got ''; relative"),
        ("mine", "got 'mine' (did you mean 'folder:mine'?); relative"),
        ("folder:", "there is no folder ''"),
        ("folder:other", "there is no folder 'other'"),
        ("folder:~nobody/x", "there is no folder '~nobody/x'"),
    ],
)
def test_a_wrong_argument_is_explained(tmp_path, monkeypatch, text, got):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for ask in (check_dataset_argument, locate_images):
        with pytest.raises(DataError) as error:
            ask(text)
        sentence = one_sentence(error)
        assert "expected sample, cifar10 or folder:<path of a folder of images>" in sentence
        assert got in sentence
        assert str(tmp_path) in sentence and "absolute path" in sentence


@pytest.mark.parametrize(("name", "shown"), [("caf\udce9", r"caf\xe9"), ("a\0b", r"a\x00b")])
def test_a_path_that_mlflow_cannot_record_has_its_remedy(tmp_path, monkeypatch, name, shown):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as error:
        check_dataset_argument(f"folder:{name}")
    sentence = one_sentence(error)
    assert "expected a path in UTF-8" in sentence and f"got {shown};" in sentence


def test_a_folder_is_used_where_it_lies(tmp_path, monkeypatch):
    folder = tmp_path / "my images"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    expected = ImageSource(FOLDER, "my images", folder, str(folder))
    for path in (str(folder), "~/my images", "my images", "./my images/"):
        assert locate_images(f"folder:{path}") == expected


def test_the_check_of_an_argument_imports_nothing_heavy():
    code = (
        "import sys; from embedlab.datasets.image_source import check_dataset_argument as check;"
        "check('cifar10'); heavy = {'numpy', 'PIL', 'torch', 'torchvision', 'requests', 'rich'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def cifar_pixels(batch: int) -> np.ndarray:
    """Two images per batch; as in CIFAR-10, a row has 1,024 red bytes, then green, then blue."""
    return np.random.default_rng(batch).integers(0, 256, (2, 3072), dtype=np.uint8)


@pytest.fixture
def small_cifar(monkeypatch) -> bytes:
    """An archive that replaces the real one in the test, and whose URL cannot be reached."""
    from torchvision.datasets import CIFAR10 as TorchvisionCIFAR10

    contents = {
        name: pickle.dumps({"data": cifar_pixels(batch), "labels": [batch, 9 - batch]})
        for batch, name in enumerate(BATCHES)
    }
    contents["batches.meta"] = pickle.dumps({"label_names": [f"kind {k}" for k in range(10)]})
    md5 = {name: hashlib.md5(data).hexdigest() for name, data in contents.items()}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in [*contents.items(), ("readme.html", b"<html>")]:
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    archive = buffer.getvalue()

    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as closed:
        url = f"http://127.0.0.1:{closed.server_port}/cifar-10-python.tar.gz"
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0))
    monkeypatch.setattr(image_source, "CIFAR10_URL", url)
    monkeypatch.setattr(image_source, "CIFAR10_SHA256", hashlib.sha256(archive).hexdigest())
    monkeypatch.setattr(
        TorchvisionCIFAR10, "train_list", [[name, md5[name]] for name in BATCHES[:5]]
    )
    monkeypatch.setattr(TorchvisionCIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]}
    monkeypatch.setattr(TorchvisionCIFAR10, "meta", meta)
    return archive


def put_by_hand(archive: bytes) -> Path:
    path = cache_folder() / "downloads" / "cifar-10-python.tar.gz"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(archive)
    return path


def test_a_download_that_fails_says_where_to_put_the_file(small_cifar):
    with pytest.raises(DownloadError) as error:
        locate_images("cifar10")
    target = cache_folder() / "downloads" / "cifar-10-python.tar.gz"
    sentence = one_sentence(error)
    assert image_source.CIFAR10_URL in sentence
    assert sentence.endswith(f"fetch it by hand and save it as {target}.")
    assert [path for path in cache_folder().rglob("*") if path.is_file()] == []
    assert put_by_hand(small_cifar) == target  # the advice works
    located = locate_images("cifar10")
    assert (located.kind, located.name, located.source) == (
        CIFAR10,
        "CIFAR-10",
        image_source.CIFAR10_URL,
    )


def test_cifar10_is_read_with_its_own_test_images(small_cifar):
    put_by_hand(small_cifar)
    source = locate_images("cifar10")
    folder = source.path / "cifar-10-batches-py"
    assert {path.name for path in folder.iterdir()} == {*BATCHES, "batches.meta"}
    images = read_images(source)
    rows = np.concatenate([cifar_pixels(batch) for batch in range(6)])
    assert np.array_equal(images.pixels, rows.reshape(12, 3, 32, 32))
    assert images.pixels.dtype == np.uint8 and images.pixels.flags.c_contiguous
    assert images.labels.dtype == np.int64
    assert images.labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5, 5, 4]
    assert images.classes == tuple(f"kind {k}" for k in range(10))
    assert (images.part_sizes, images.side) == ({"train": 10, "test": 2}, 32)
    assert images.left_out == ()


def test_a_damaged_file_of_cifar10_is_mended_from_the_archive(small_cifar):
    put_by_hand(small_cifar)
    folder = locate_images("cifar10").path / "cifar-10-batches-py"
    good = (folder / "data_batch_3").read_bytes()
    (folder / "data_batch_3").write_bytes(good[:-1] + b"!")
    (folder / "batches.meta").unlink()
    digest = read_images(locate_images("cifar10")).digest
    assert (folder / "data_batch_3").read_bytes() == good

    stamp = (folder / "data_batch_3").stat().st_mtime_ns
    put_by_hand(b"no longer needed")
    assert read_images(locate_images("cifar10")).digest == digest
    assert (folder / "data_batch_3").stat().st_mtime_ns == stamp
