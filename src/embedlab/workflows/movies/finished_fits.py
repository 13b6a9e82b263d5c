"""Finished fits of earlier comparisons, which a comparison takes over.

A child run is found by its tag `fit_key`, a digest of everything that its result depends on. So a
stopped comparison continues when it is started again, and a larger one reuses finished fits.
"""

import hashlib
import json
import math
from contextlib import suppress
from dataclasses import asdict

import mlflow
import numpy as np
import scipy
import torch
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from embedlab.datasets.cache import DAMAGED_ARRAY
from embedlab.errors import DivergedError
from embedlab.movies.options import FitOptions
from embedlab.movies.solvers.result import FitResult, divergence_epoch
from embedlab.movies.sweep.convergence import LISTS_FILE, ListsByEpoch, Queries, read_lists
from embedlab.movies.sweep.grid import FIT_KEY, Job
from embedlab.movies.sweep.results import SweepFit
from embedlab.progress import EpochRecord
from embedlab.tracking.finished import download_artifact, has_artifact, read_history
from embedlab.tracking.project import PROJECT_ROOT
from embedlab_serving.movie_model import ARTIFACT, VECTORS_FILE

LISTS_FOLDER = "lists"
LISTS_PATH = f"{LISTS_FOLDER}/{LISTS_FILE}"
# The code that a fit's vectors and lists depend on.
FIT_CODE = (
    "movies/options.py", "movies/data/*.py", "movies/solvers/*.py",
    "movies/sweep/convergence.py", "../embedlab_serving/titles.py",
)  # fmt: skip


def fit_key(options: FitOptions, seed: int, data: str, device: str) -> str:
    """sha256 (hex) of everything a fit's result depends on: parameters, data, device, code."""
    package = PROJECT_ROOT / "src/embedlab"
    code = [path for pattern in FIT_CODE for path in sorted(package.glob(pattern))]
    inputs = {
        "options": asdict(options),
        "seed": seed,
        "data": data,
        "device": device,
        "versions": [torch.__version__, scipy.__version__, np.__version__],
        "code": [path.read_text(encoding="utf-8") for path in code],
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def find_finished_fit(experiment_id: str, key: str, job: Job, queries: Queries) -> SweepFit | None:
    """The newest finished child run with this key whose artifacts are intact; None if none is."""
    filter_string = f"tags.{FIT_KEY} = '{key}'"
    for run in mlflow.MlflowClient().search_runs([experiment_id], filter_string):
        run_id = run.info.run_id
        reason = run.data.tags.get("stop_reason")
        if reason not in ("finished", DivergedError.stop_reason):
            continue
        with suppress(MlflowException, IndexError, *DAMAGED_ARRAY):  # partly deleted, damaged
            history = read_history(run_id, ["train/cost"])
            result = _read_result(run, history, reason == "finished")
            lists: ListsByEpoch = {}  # the exact solver and fits that diverged log none
            if has_artifact(run_id, LISTS_PATH):
                content = download_artifact(f"runs:/{run_id}/{LISTS_PATH}").read_bytes()
                lists = read_lists(content, queries)
            if not result.has_diverged:
                lists = {**lists, result.epochs: queries.recommend(result.embedding)}
            return SweepFit(*job, result, history, lists, run_id)
    return None


def _read_result(run: Run, history: list[EpochRecord], is_finished: bool) -> FitResult:
    """The result of a finished child's fit.

    Raises LookupError or numpy's errors if the child is incomplete or damaged.
    """
    seconds = run.data.metrics["time/fit_seconds"]
    costs = [record.metrics["train/cost"] for record in history]
    if is_finished:
        file = download_artifact(f"runs:/{run.info.run_id}/{ARTIFACT}/{VECTORS_FILE}")
        vectors = np.load(file, allow_pickle=False)
        return FitResult(vectors, costs[-1], history[-1].epoch, seconds)
    # A cost that is not finite is not recorded: it belongs to the epoch after the last one.
    epochs = min(len(costs), int(run.data.params["epochs"]))
    no_vectors = np.empty((0, int(run.data.params["dim"])), np.float32)
    last = costs[-1] if costs else math.nan
    diverged_at = divergence_epoch(costs) or epochs
    return FitResult(no_vectors, last, epochs, seconds, diverged_at)
