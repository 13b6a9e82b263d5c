"""Hundreds of damaged and mixed-up models: each gives the right answer or a sentence.

The models are logged as usual, with twelve movies and with a network of two layers. One file after
the other is deleted, emptied, truncated, changed in one bit, or replaced by another of its kind.
Models are loaded as for serving, by `mlflow.pyfunc.load_model`, and by the entry point `recommend`.
"""

import _pickle
import base64
import io
import json
import pickle
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cloudpickle
import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import fresh_store
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from oracles import small_ratings
from PIL import Image
from safetensors.torch import load_file, save
from served_models import MOVIES, TOY_STORY
from torch import nn
from torchvision import models
from torchvision.models._api import register_model
from typed_recommend import assert_is_a_sentence, recommend_typer

from embedlab.movies.data.likes import find_likes, load_likes, save_likes
from embedlab.tracking.lifecycle import start_run
from embedlab.tracking.model_logging import forget_model_code
from embedlab.vision.backbone import load_backbone
from embedlab.vision.training.checkpoint import Checkpoints
from embedlab.workflows.images.model import log_image_model
from embedlab.workflows.movies.model import log_movie_model
from embedlab.workflows.movies.recommend import load_model, query
from embedlab_serving import digests, movie_model
from embedlab_serving.digests import DIGESTS

pytestmark = pytest.mark.slow
type_recommend = pytest.fixture(recommend_typer)

CLASSES = ("ant", "bee", "cat")
VECTORS, TABLE = "artifacts/embedding/vectors.npy", "artifacts/embedding/movies.csv"
WEIGHTS, ABOUT = "artifacts/classifier/weights.safetensors", "artifacts/classifier/about.json"
# Files that MLflow writes beside the model, and that do not affect its answers.
BESIDE = (
    "conda.yaml",
    "python_env.yaml",
    "requirements.txt",
    "input_example.json",
    "serving_input_example.json",
    "registered_model_meta",
)
CUTS, FLIPS = 2, 2  # of every file; MLmodel has more flips, since no digest covers it
FLIPS_OF_MLMODEL = 40


@register_model("two_layers_for_tests")
def two_layers(num_classes: int = 3, **_: object) -> nn.Module:
    """A network that loads fast, registered with torchvision under this name."""
    first = nn.Conv2d(3, 4, kernel_size=4, stride=4)
    return nn.Sequential(first, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4 * 4, num_classes))


@dataclass(frozen=True)
class Logged:
    """A logged model, copied to a folder in which tests damage it, and its right answer."""

    uri: str
    folder: Path
    request: pd.DataFrame
    answer: pd.DataFrame

    def load_and_ask(self, damaged: str = "") -> pd.DataFrame:
        """Load and query it; MLflow compares requirements, slowly, if `damaged` affects them."""
        is_compared = damaged in ("", "MLmodel", "requirements.txt")
        with patch.object(sys, "path", list(sys.path)):
            model = mlflow.pyfunc.load_model(str(self.folder), suppress_warnings=not is_compared)
            return model.predict(self.request, params={"k": 3})

    def check(self, answer: pd.DataFrame) -> None:
        pd.testing.assert_frame_equal(answer, self.answer, check_exact=True)

    def files(self) -> dict[str, bytes]:
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for path in paths
            if "__pycache__" not in path.parts
        }

    @contextmanager
    def with_file(self, name: str, content: bytes | None) -> Iterator[None]:
        """Give a file this content, or delete it, in the block; restore it afterwards."""
        path = self.folder / name
        before = path.read_bytes()
        try:
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)
            yield
        finally:
            path.write_bytes(before)


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same order of sums, since answers are compared exactly
    # Python takes the bytecode of a damaged file for that of the restored one, if both have the
    # same size and were written in the same second.
    with (
        patch.object(sys, "dont_write_bytecode", True),
        fresh_store(tmp_path_factory.mktemp("store")) as client,
    ):
        yield client
    torch.set_num_threads(threads)


def as_logged(uri: str, folder: Path, request: pd.DataFrame) -> Logged:
    folder = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))
    model = mlflow.pyfunc.load_model(str(folder))
    return Logged(uri, folder, request, model.predict(request, params={"k": 3}))


VALUES = np.random.default_rng(0).normal(size=(len(MOVIES), 4)).astype(np.float32)


@pytest.fixture(scope="module")
def movies(store, tmp_path_factory) -> Logged:
    with start_run("fit_embedding", "fit", {}) as run:
        uri = log_movie_model(run, VALUES, MOVIES, {"data": "twelve movies", "cost": 1.5})
    return as_logged(uri, tmp_path_factory.mktemp("movies"), pd.DataFrame({"title": [TOY_STORY]}))


@pytest.fixture(scope="module")
def images(store, tmp_path_factory) -> Logged:
    about = {
        "backbone": "two_layers_for_tests",
        "classes": CLASSES,
        "side": 8,
        "flip_view": True,
        "preprocessing": {"resolution": 16, "crop_pct": 1.0, "mean": (0.5,) * 3, "std": (0.2,) * 3},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = two_layers().eval()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    with start_run("finetune", "random", {}) as run:
        uri = log_image_model(run, network, about, pixels)
    file = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(file, "png")
    request = pd.DataFrame({"image": [base64.b64encode(file.getvalue()).decode()]})
    return as_logged(uri, tmp_path_factory.mktemp("pictures"), request)


@pytest.fixture(params=["movies", "images"])
def logged(request) -> Logged:
    return request.getfixturevalue(request.param)


def is_of_the_model(error: BaseException) -> bool:
    """Whether the model's own copy of the code has raised its DataError."""
    kind = type(error)
    return kind.__name__ == "DataError" and kind.__module__.startswith("embedlab_serving_")


def refusal_of(model: "Logged") -> str:
    """The message of the model's own code, which refuses to load or to answer."""
    with pytest.raises(Exception) as caught:
        model.load_and_ask()
    assert is_of_the_model(caught.value)
    return str(caught.value)


def damages(name: str, content: bytes) -> Iterator[tuple[str, bytes | None]]:
    """Yield the name of a damage and the damaged content; the same every time."""
    rng = np.random.default_rng(list(name.encode()))
    yield "deleted", None
    if not content:
        return
    yield "emptied", b""
    for size in rng.integers(1, len(content), CUTS):
        yield f"cut to {size} bytes", content[:size]
    n_flips = FLIPS_OF_MLMODEL if name == "MLmodel" else FLIPS
    for position in rng.integers(len(content), size=n_flips):
        flipped = bytearray(content)
        flipped[position] ^= 1 << rng.integers(8)
        yield f"a bit of byte {position} flipped", bytes(flipped)


# -- one file after the other ------------------------------------------------------------------


def test_a_damaged_file_is_named_or_the_answer_is_right(logged):
    """Loaded for serving: data and code are checked, and other files do not affect the answer."""
    covered = set(Model.load(logged.folder).metadata[DIGESTS])
    script = next(name for name in covered if "/" not in name)
    assert covered == logged.files().keys() - {"MLmodel", *BESIDE}
    n_refused = 0
    for name, content in logged.files().items():
        for damage, left in damages(name, content):
            with logged.with_file(name, left):
                try:
                    answer = logged.load_and_ask(name)
                except Exception as error:
                    if is_of_the_model(error):
                        assert "\n" not in str(error), f"{name} {damage}: {error}"
                        assert name in str(error) or name == "MLmodel", f"{name} {damage}: {error}"
                    else:  # MLflow or Python reads these before the check
                        is_code = name.startswith("code/") or name == script
                        is_before = is_code or name in ("MLmodel", "requirements.txt")
                        assert is_before, f"{name} {damage}: {error!r}"
                    n_refused += 1
                else:
                    assert name not in covered, f"{name} {damage}: nobody noticed"
                    logged.check(answer)
    assert n_refused > 100


def test_the_check_itself_fails_wherever_it_is_cut(movies):
    lines = Path(digests.__file__).read_text(encoding="utf-8").splitlines(keepends=True)
    vectors = "artifacts/embedding/vectors.npy"
    with movies.with_file(vectors, movies.files()[vectors][:-1]):
        for n_lines in range(len(lines) + 1):
            code: dict[str, Any] = {}
            try:
                exec("".join(lines[:n_lines]), code)
                code["check_model"](movies.folder, movie_model.SIGNATURE)
            except Exception:  # Python's, or that of the check
                continue
            pytest.fail(f"cut after line {n_lines} of {len(lines)}: nobody noticed")


def test_recommend_says_in_a_sentence_what_is_damaged(movies, type_recommend):
    covered = Model.load(movies.folder).metadata[DIGESTS]
    for name, content in movies.files().items():
        for damage, left in damages(name, content):
            with movies.with_file(name, left):
                result = type_recommend(movies.folder)
            if isinstance(result, pd.DataFrame):
                assert name not in covered, f"{name} {damage}: nobody noticed"
                movies.check(result)
            else:
                assert_is_a_sentence(result)
                is_needed = name not in BESIDE or name == "requirements.txt"
                assert is_needed, f"{name} {damage}: {result}"


def array(values: np.ndarray, allow_pickle: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=allow_pickle)
    return file.getvalue()


def table(movies: pd.DataFrame) -> bytes:
    return movies.to_csv(index=False, lineterminator="\n").encode()


OTHER_VALUES = np.random.default_rng(1).normal(size=VALUES.shape).astype(np.float32)
WITH_NAN = np.where(np.arange(4) == 2, np.float32(np.nan), VALUES)
OBJECTS = array(np.array([{"an": "object"}]), allow_pickle=True)
OTHERS_OF_ITS_KIND = {
    "other numbers": (VECTORS, array(OTHER_VALUES)),
    "one number, in the last bit": (VECTORS, array(np.nextafter(VALUES, np.float32(9)))),
    "rows in another order": (VECTORS, array(VALUES[::-1].copy())),
    "fewer rows": (VECTORS, array(VALUES[:-1])),
    "fewer columns": (VECTORS, array(VALUES[:, :-1].copy())),
    "no axis": (VECTORS, array(np.float32(1))),
    "not a number": (VECTORS, array(WITH_NAN)),
    "float64": (VECTORS, array(VALUES.astype(np.float64))),
    "integers": (VECTORS, array(VALUES.astype(np.int64))),
    "objects, which are a pickle": (VECTORS, OBJECTS),
    "a pickle by itself": (VECTORS, pickle.dumps(VALUES)),
    "titles exchanged": (TABLE, table(MOVIES.assign(title=MOVIES["title"][::-1].to_numpy()))),
    "a movie less": (TABLE, table(MOVIES[:-1])),
    "no column likes": (TABLE, table(MOVIES.drop(columns="likes"))),
}


@pytest.mark.parametrize(("name", "content"), OTHERS_OF_ITS_KIND.values(), ids=OTHERS_OF_ITS_KIND)
def test_another_file_of_its_kind_is_named(movies, type_recommend, name, content):
    with movies.with_file(name, content):
        assert f"{name} is not the one that was logged" in refusal_of(movies)
        assert_is_a_sentence(type_recommend(movies.folder), f"{name} is not the one that was")


def weights(images: Logged, change) -> bytes:
    return save({k: change(v) for k, v in load_file(images.folder / WEIGHTS).items()})


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v + 1,
        lambda v: v.flip(0),
        lambda v: v[:1].contiguous(),
        lambda v: v.half(),
        lambda v: v * torch.nan,
    ],
    ids=["other numbers", "another order", "another shape", "float16", "not a number"],
)
def test_other_weights_are_named(images, change):
    with images.with_file(WEIGHTS, weights(images, change)):
        assert f"{WEIGHTS} is not the one that was logged" in refusal_of(images)


def test_weights_as_a_pickle_and_other_classes_are_named(images):
    file = io.BytesIO()
    torch.save(load_file(images.folder / WEIGHTS), file)
    about = json.loads((images.folder / ABOUT).read_text(encoding="utf-8"))
    renamed = json.dumps(about | {"classes": ["bee", "ant", "cat"]}).encode()
    for name, content in ((WEIGHTS, file.getvalue()), (ABOUT, renamed)):
        with images.with_file(name, content):
            assert f"{name} is not the one that was logged" in refusal_of(images)


def test_files_of_the_other_model_are_named(movies, images, type_recommend):
    """Both models have MLmodel, all code but the first file, and the files beside the model."""
    shared = movies.files().keys() & images.files().keys()
    assert "MLmodel" in shared
    assert any(name.endswith("/digests.py") for name in shared)
    for mine, other in ((movies, images), (images, movies)):
        for name in shared:
            content = other.files()[name]
            does_not_matter = content == mine.files()[name] or name in BESIDE
            with mine.with_file(name, content):
                if does_not_matter:
                    mine.check(mine.load_and_ask())
                else:
                    with pytest.raises(Exception) as refused:
                        mine.load_and_ask()
                    mlflows_own = (MlflowException, KeyError, OSError)
                    assert is_of_the_model(refused.value) or refused.errisinstance(mlflows_own)
    with movies.with_file("MLmodel", images.files()["MLmodel"]):
        assert_is_a_sentence(type_recommend(movies.folder), "takes image and gives label")


# -- models of another kind ----------------------------------------------------------------------


def test_recommend_wants_a_movie_embedding(images, type_recommend):
    assert_is_a_sentence(
        type_recommend(images.uri),
        "expected a movie embedding, which takes title and gives query, rank, movie_id, title,",
        f"but '{images.uri}' takes image and gives label, probability, top: give one that",
    )


def test_a_model_that_is_asked_for_what_the_other_knows_says_what_it_takes(movies, images):
    for mine, other, missing in ((movies, images, "title"), (images, movies, "image")):
        with pytest.raises(MlflowException, match=rf"Model is missing inputs \['{missing}'\]"):
            mlflow.pyfunc.load_model(mine.uri).predict(other.request)


def test_a_model_from_before_there_were_digests_still_loads(movies, tmp_path, type_recommend):
    """Its own code does not look for digests, and its copy of the project has no such module."""
    folder = shutil.copytree(movies.folder, tmp_path / "model")
    script = folder / "movie_model.py"
    lines = script.read_text(encoding="utf-8").splitlines(keepends=True)
    older = [line for line in lines if "check_model" not in line]
    assert len(older) == len(lines) - 2  # the import and the call
    script.write_text("".join(older), encoding="utf-8")
    (digests,) = folder.glob("code/*/digests.py")
    digests.unlink()
    model = Model.load(folder)
    del model.metadata[DIGESTS]
    model.save(folder / "MLmodel")
    movies.check(type_recommend(folder))


# -- without a pickle ----------------------------------------------------------------------------


@pytest.fixture
def no_pickles(monkeypatch):
    """Make every read of a pickle fail; torch's own reader, `weights_only`, does not use them."""

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a pickle was read")

    for module in (pickle, _pickle, cloudpickle):
        for name in ("load", "loads", "Unpickler"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, forbidden)
    load = torch.load

    def load_tensors(*args: object, weights_only: bool = False, **options: object) -> object:
        assert weights_only, "torch.load would read a pickle"
        return load(*args, weights_only=True, **options)

    monkeypatch.setattr(torch, "load", load_tensors)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")


def test_all_that_is_loaded_is_loaded_without_a_pickle(movies, images, tmp_path, no_pickles):
    """Both models, a checkpoint, a file of weights, and the matrix of build_matrix."""
    with pytest.raises(AssertionError, match="a pickle was read"):
        pickle.loads(pickle.dumps(1))
    forget_model_code()  # else that of another test's model, whose folder is gone
    for logged in (movies, images):
        logged.check(logged.load_and_ask())
    movies.check(query(load_model(movies.uri), [TOY_STORY], {"k": 3}))

    network = models.resnet18(num_classes=3)
    Checkpoints("a training").save({"network": network.state_dict(), "epoch": 2, "name": "x"})
    state = Checkpoints("a training").load()
    assert (state["epoch"], state["name"]) == (2, "x")
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    loaded = load_backbone("resnet18", str(tmp_path / "weights.pth")).network.state_dict()
    for key, value in loaded.items():
        assert torch.equal(value, network.state_dict()[key]), key
        assert torch.equal(value, state["network"][key]), key

    likes = find_likes(small_ratings(np.random.default_rng(0)), "user_mean")
    save_likes(likes, tmp_path)
    assert load_likes(tmp_path).digest == likes.digest
