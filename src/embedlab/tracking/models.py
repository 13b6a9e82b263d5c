"""Log a model that MLflow can serve: code and arrays, no pickle, pinned requirements."""

import base64
import io
import json
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import Model

from embedlab.errors import TrackingError
from embedlab.movies.titles import MAX_QUERY
from embedlab.tracking import movie_model
from embedlab.tracking.digests import DIGESTS, digests_of
from embedlab.tracking.outage import why_away
from embedlab.tracking.runs import PROJECT_ROOT, TrackedRun
from embedlab.tracking.store import first_line

if TYPE_CHECKING:
    from torch import nn

# All of `embedlab` that the served models run, beside their own files. Each holds what both need:
# in a process that loads both, the first copy of `embedlab` is the one that Python knows.
MODULES = (
    "__init__.py",
    "checksum.py",
    "errors.py",
    "tracking/__init__.py",
    "tracking/answers.py",
    "tracking/digests.py",
    "movies/__init__.py",
    "movies/neighbours.py",
    "movies/titles.py",
    "vision/__init__.py",
    "vision/decode.py",
    "vision/preprocess.py",
)
# What each needs installed.
MOVIE_PACKAGES = ("mlflow", "numpy", "pandas", "rapidfuzz")
IMAGE_PACKAGES = ("mlflow", "numpy", "pandas", "pillow", "safetensors", "torch", "torchvision")


def log_movie_model(
    run: TrackedRun, vectors: np.ndarray, movies: pd.DataFrame, about: Mapping[str, object]
) -> str:
    """Log the embedding as artifacts `embedding/` and as the model `model`; returns its URI.

    vectors  (n_movies, dim) float32.
    movies   a row a vector: movie_id, title, genres, likes.
    about    what a reader of the artifacts wants to know: data, optimizer, cost.
    """
    popular = _title_for_an_example(movies)
    example = (pd.DataFrame({"title": [popular]}), {"k": 3})
    with TemporaryDirectory() as temporary:
        folder = Path(temporary, movie_model.ARTIFACT)
        folder.mkdir()
        save_embedding(folder, vectors, movies, about)
        run.log_folder(folder, movie_model.ARTIFACT)
        return _log(run, movie_model, folder, MOVIE_PACKAGES, example, about)


def _title_for_an_example(movies: pd.DataFrame) -> str:
    """The most popular one that a query can name, as one with a "|" would be two."""
    by_likes = movies.sort_values("likes", ascending=False, kind="stable")["title"]
    usable = by_likes[~by_likes.str.contains("|", regex=False) & (by_likes.str.len() <= MAX_QUERY)]
    return (usable if len(usable) else by_likes).iloc[0]


def save_embedding(
    folder: Path, vectors: np.ndarray, movies: pd.DataFrame, about: Mapping[str, object]
) -> None:
    """Write what `log_movie_model` takes as files, without pickle."""
    np.save(folder / movie_model.VECTORS_FILE, vectors, allow_pickle=False)
    movies.to_csv(folder / movie_model.MOVIES_FILE, index=False, lineterminator="\n")
    (folder / "about.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def log_image_model(
    run: TrackedRun, network: "nn.Module", about: Mapping[str, object], example: np.ndarray
) -> str:
    """Log a classifier as artifacts `classifier/` and as the model `model`; returns its URI.

    network  a torchvision ResNet with its head.
    about    backbone, classes, side, flip_view, preprocessing: what loading needs; and data,
             how it was trained, accuracy: what a reader of the artifacts wants to know.
    example  (3, side, side) uint8: a picture for the model's example of a request.
    """
    from PIL import Image
    from safetensors.torch import save_file

    from embedlab.tracking import image_model

    picture = io.BytesIO()
    Image.fromarray(example.transpose(1, 2, 0)).save(picture, "png")
    request = pd.DataFrame({"image": [base64.b64encode(picture.getvalue()).decode()]})
    weights = {key: value.cpu().contiguous() for key, value in network.state_dict().items()}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary, image_model.ARTIFACT)
        folder.mkdir()
        save_file(weights, folder / image_model.WEIGHTS_FILE)
        text = json.dumps(about, indent=2) + "\n"
        (folder / image_model.ABOUT_FILE).write_text(text, encoding="utf-8")
        run.log_folder(folder, image_model.ARTIFACT)
        params = {"k": min(3, len(about["classes"]))}
        example_request = (request, params)
        return _log(run, image_model, folder, IMAGE_PACKAGES, example_request, about)


def _log(
    run: TrackedRun,
    module: ModuleType,
    folder: Path,
    packages: tuple[str, ...],
    example: tuple[pd.DataFrame, dict],
    about: Mapping[str, object],
) -> str:
    """The model whose code is `module` and whose artifacts are `folder`; its URI."""
    with TemporaryDirectory() as temporary:
        code, script = _copy_modules(Path(temporary)), Path(module.__file__)
        files = {script.name: script}  # as MLflow lays them out
        files |= {f"code/{code.name}/{name}": code / name for name in MODULES}
        files |= {f"artifacts/{folder.name}/{path.name}": path for path in folder.iterdir()}
        log_model = partial(
            mlflow.pyfunc.log_model,
            name="model",
            python_model=str(script),
            artifacts={module.ARTIFACT: str(folder)},
            code_paths=[str(code)],
            signature=module.SIGNATURE,
            input_example=example,
            pip_requirements=pinned(packages),
            metadata={**about, DIGESTS: digests_of(files)},
        )
        return run.patiently(log_model).model_uri


def check_answers_its_example(model_uri: str) -> None:
    """Load a logged model and ask it by its own input example.

    Raises TrackingError where either fails: nobody could use it then.
    """
    try:
        folder = mlflow.artifacts.download_artifacts(model_uri)
        model = Model.load(folder)
        example, params = model.load_input_example(folder), model.load_input_example_params(folder)
        mlflow.pyfunc.load_model(folder).predict(example, params)
    except Exception as error:  # a model can raise anything, and so can what loads it
        if why_away(error) is not None:
            raise
        raise TrackingError(
            f"the model {model_uri} does not answer its own input example ({first_line(error)}): "
            "it is logged, but was not registered."
        ) from error


def _copy_modules(folder: Path) -> Path:
    package = folder / "embedlab"
    for module in MODULES:
        copy = package / module
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT_ROOT / "src" / "embedlab" / module, copy)
    return package


def pinned(packages: tuple[str, ...]) -> list[str]:
    """The lines of `requirements.txt` for these packages."""
    lines = (PROJECT_ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = {line.partition("==")[0]: line.split("#")[0].strip() for line in lines}
    return [pins[package] for package in packages]
