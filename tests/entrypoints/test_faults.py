"""A full disk, a cache that cannot be written, or files that are truncated or changed lead to one
sentence, and without the fault the same command succeeds.

Downloads are tested in `test_download`, `test_image_source` and `test_backbone`, the tracking
server in `test_outage`, damaged checkpoints in `test_checkpoint`, models in `test_damaged_models`.
"""

import errno
import json
import os
import resource
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from degenerate_ratings import write
from oracles import small_ratings
from PIL import Image
from sentences import one_sentence
from toy_dataset import split_of, squares

from embedlab.datasets.cache import cache_folder
from embedlab.datasets.image_source import locate_images
from embedlab.datasets.movielens import locate_ratings
from embedlab.errors import DataError, EmbedlabError, TrackingError
from embedlab.movies.data.likes import CHECKSUM, find_likes, load_likes, save_likes
from embedlab.vision.backbone import load_backbone
from embedlab.vision.data.images import read_images
from embedlab.vision.features import extract_features
from embedlab.vision.inference import ImagePipeline
from embedlab.vision.training.checkpoint import Checkpoints
from entrypoints import build_matrix, fit_embedding

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("store")]


def status() -> str:
    return mlflow.last_active_run().info.status


# -- a full disk ---------------------------------------------------------------------------------


@contextmanager
def files_end_at(n_bytes: int) -> Iterator[None]:
    """Limit the size of this process's files; the system then raises errors as for a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def use_sample(folder: Path) -> None:
    assert locate_ratings("sample").path.is_dir()


def use_zip(folder: Path) -> None:
    with files_end_at(1 << 20), zipfile.ZipFile(folder / "mine.zip", "w") as archive:
        rows = [f"{user},1,4.0\n" for user in range(1000)]
        archive.writestr("ratings.csv", "userId,movieId,rating\n" + "".join(rows))
        archive.writestr("movies.csv", "movieId,title,genres\n1,A,B\n")
    assert locate_ratings(str(folder / "mine.zip")).path.is_dir()


def use_images(folder: Path) -> None:
    with files_end_at(1 << 20):
        for kind in "ab":
            (folder / kind).mkdir(exist_ok=True)
            for number in range(2):
                Image.new("RGB", (40, 40), (9, 9, number)).save(folder / kind / f"{number}.png")
    assert len(read_images(locate_images(f"folder:{folder}")).labels) == 4


def use_features(folder: Path) -> None:
    images = squares()
    backbone = load_backbone("resnet18", "none")
    pipeline = ImagePipeline(backbone.network, backbone.preprocessing(32, 1.0))
    features = extract_features(backbone.digest, pipeline, images, split_of(images))
    assert not features.was_cached


def use_checkpoint(folder: Path) -> None:
    Checkpoints("training").save({"weights": torch.arange(5000.0)})
    assert Checkpoints("training").load()["weights"][-1] == 4999


@pytest.mark.parametrize(
    "use",
    [use_sample, use_zip, use_images, use_features, use_checkpoint],
    ids=lambda f: f.__name__,
)
def test_a_full_disk_under_the_cache(tmp_path, use):
    with files_end_at(4_000), pytest.raises(DataError) as error:
        use(tmp_path)
    sentence = one_sentence(error)
    assert "cannot be written" in sentence and "make room" in sentence
    assert "EMBEDLAB_CACHE" in sentence
    assert [path for path in cache_folder().rglob("*") if path.is_file()] == []
    use(tmp_path)


@pytest.mark.parametrize(
    ("entry_point", "file"),
    [
        (build_matrix, "likes.npz"),
        (fit_embedding, "vectors.npy"),
        (fit_embedding, "MLmodel"),
    ],
)
def test_a_full_disk_under_the_artifacts(tmp_path, monkeypatch, entry_point, file):
    """The disk is full at the named file; MLflow copies some files by name, others by stream."""
    data = write(tmp_path, "one star for all")

    def refuse_at(copy, name):
        def refusing(source, target, *args, **options):
            if Path(name(source)).name == file:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return copy(source, target, *args, **options)

        return refusing

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", refuse_at(shutil.copyfile, lambda path: path))
        by_stream = refuse_at(shutil.copyfileobj, lambda stream: stream.name)
        patched.setattr(shutil, "copyfileobj", by_stream)
        with pytest.raises(TrackingError) as error:
            entry_point.main(data)
    assert "No space left on device" in str(error.value) and "\n" not in str(error.value)
    assert status() == "FAILED"
    entry_point.main(data)
    assert status() == "FINISHED"


# -- a cache that cannot be written --------------------------------------------------------------


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    """A file in the place of the folder stops even root, who may write anywhere."""
    (tmp_path / "file").write_text("")
    whole = os.environ["EMBEDLAB_CACHE"]
    monkeypatch.setenv("EMBEDLAB_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError) as error:
        build_matrix.main(["--ratings", "sample"])
    assert "file cannot be written (File exists); make room or set EMB" in one_sentence(error)
    assert status() == "FAILED"
    monkeypatch.setenv("EMBEDLAB_CACHE", whole)
    build_matrix.main(["--ratings", "sample", "--dense", "false"])
    assert status() == "FINISHED"


# -- what build_matrix hands on ------------------------------------------------------------------


def damaged(content: bytes, rng: np.random.Generator) -> Iterator[bytes]:
    """The content cut short in ten places, and with one bit changed in sixty."""
    yield from (content[:size] for size in rng.integers(len(content), size=10))
    for place in rng.integers(len(content), size=60):
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.integers(8)
        yield bytes(flipped)


@pytest.mark.parametrize(
    "has_checksum", [True, False], ids=["as it is now", "from before the checksum"]
)
def test_a_damaged_matrix_is_refused_or_has_lost_nothing(tmp_path, has_checksum):
    rng = np.random.default_rng(0)
    likes = find_likes(small_ratings(rng), "user_mean", "inverse", 0.25)
    save_likes(likes, tmp_path)
    if not has_checksum:
        about = json.loads((tmp_path / "about.json").read_text(encoding="utf-8"))
        del about[CHECKSUM]
        (tmp_path / "about.json").write_text(json.dumps(about), encoding="utf-8")
        assert load_likes(tmp_path).params == likes.params
    n_refused = 0
    for name in ("likes.npz", "movies.csv", "about.json"):
        whole = (tmp_path / name).read_bytes()
        for content in damaged(whole, rng):
            (tmp_path / name).write_bytes(content)
            try:
                loaded = load_likes(tmp_path)
            except DataError as error:
                assert str(error).startswith("matrix: ") and "\n" not in str(error)
                n_refused += 1
            else:
                if has_checksum or name == "likes.npz":  # else a changed title is not detected
                    assert (loaded.matrix != likes.matrix).nnz == 0
                if has_checksum:
                    assert loaded.movies.equals(likes.movies) and loaded.params == likes.params
        (tmp_path / name).write_bytes(whole)
    assert n_refused > (190 if has_checksum else 90)


def test_fit_embedding_refuses_a_matrix_that_was_cut_short(tmp_path):
    build_matrix.main(write(tmp_path, "one star for all"))
    run = mlflow.last_active_run().info
    uri, kept = f"runs:/{run.run_id}/matrix", Path(run.artifact_uri, "matrix", "likes.npz")
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    asked = ["--matrix", uri, "--dim", "2", "--epochs", "3"]
    with pytest.raises(EmbedlabError, match=r"^matrix: .* run build_matrix again\.$"):
        fit_embedding.main(asked)
    assert status() == "FAILED"
    kept.write_bytes(whole)
    fit_embedding.main(asked)
    assert status() == "FINISHED"
