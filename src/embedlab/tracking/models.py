"""Log a model that MLflow can serve: code and arrays, no pickle, pinned requirements."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import numpy as np
import pandas as pd

from embedlab.tracking import movie_model
from embedlab.tracking.runs import PROJECT_ROOT, TrackedRun

# All of `embedlab` that the served model runs, beside its own file.
SERVING_MODULES = (
    "__init__.py",
    "errors.py",
    "movies/__init__.py",
    "movies/titles.py",
    "movies/neighbours.py",
)
SERVING_PACKAGES = ("mlflow", "numpy", "pandas", "rapidfuzz")


def log_movie_model(
    run: TrackedRun, vectors: np.ndarray, movies: pd.DataFrame, about: Mapping[str, object]
) -> str:
    """Log the embedding as artifacts `embedding/` and as the model `model`; returns its URI.

    vectors  (n_movies, dim) float32.
    movies   a row a vector: movie_id, title, genres, likes.
    about    what a reader of the artifacts wants to know: data, optimizer, cost.
    """
    popular = movies["title"].iloc[movies["likes"].argmax()]
    example = (pd.DataFrame({"title": [popular]}), {"k": 3})
    with TemporaryDirectory() as temporary:
        code = _copy_modules(Path(temporary))
        folder = Path(temporary, movie_model.ARTIFACT)
        folder.mkdir()
        np.save(folder / movie_model.VECTORS_FILE, vectors, allow_pickle=False)
        movies.to_csv(folder / movie_model.MOVIES_FILE, index=False, lineterminator="\n")
        (folder / "about.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        run.log_folder(folder, movie_model.ARTIFACT)
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=movie_model.__file__,
            artifacts={movie_model.ARTIFACT: str(folder)},
            code_paths=[str(code)],
            signature=movie_model.SIGNATURE,
            input_example=example,
            pip_requirements=pinned(SERVING_PACKAGES),
            metadata=dict(about),
        )
    return info.model_uri


def _copy_modules(folder: Path) -> Path:
    package = folder / "embedlab"
    for module in SERVING_MODULES:
        copy = package / module
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT_ROOT / "src" / "embedlab" / module, copy)
    return package


def pinned(packages: tuple[str, ...]) -> list[str]:
    """The lines of `requirements.txt` for these packages."""
    lines = (PROJECT_ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = {line.partition("==")[0]: line.split("#")[0].strip() for line in lines}
    return [pins[package] for package in packages]
