"""The same parameters and seed give the same result: every entry point that computes is run twice,
in two folders with as many threads, and its results are bit-identical; and once with more threads,
where they agree within the tolerances stated here.

Each of the three begins with an empty store and an empty cache; the second and third are new
processes with a copy of the project. The runs of the first are compared with the contract, too.
"""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections import Counter
from hashlib import sha256
from pathlib import Path

import contract
import mlflow
import numpy as np
import pytest
import torch
from conftest import PROJECT, empty_store, fresh_store, long
from contract import RUNS, SMALL_IMAGES
from threadpoolctl import threadpool_limits

from embedlab.movies.data.likes import find_likes
from embedlab.movies.data.ratings import read_ratings
from embedlab.movies.options import FitOptions
from embedlab.movies.solvers.fit import fit_likes

pytestmark = pytest.mark.slow

FROZEN = {"freeze": "all-but-last-stage", "precision": "float32", "epochs": 2}
# For the comparison of numbers of threads: the runs of the contract freeze no stage.
FIRST = [("finetune", SMALL_IMAGES | FROZEN)] if os.environ.get("EMBEDLAB_LONG_TESTS") else []
MAKE_RUNS = """
import json, sys, contract, mlflow
mlflow.set_tracking_uri(sys.argv[1])
contract.make_runs(json.loads(sys.argv[2]))
"""
# Metrics in seconds and bytes, which depend on the machine.
OF_THE_MACHINE = ("time/", "memory/", "system/", "baseline_seconds/")
# MLflow gives these files random names, and the names of images contain the time.
NAMED_AT_RANDOM = ("images/", "table_images/")
# These files contain run ids, times or random names.
NOT_COMPARED = (
    "MLmodel",
    "report.html",
    "compare.html",
    "predictions.json",
    "model_card.md",
    "summary.md",
    "runs.json",
    "fits.json",
    "best.png",
)
# Allowed relative difference of a metric between one thread and two, which add in another order. It
# stays that small if a training is frozen up to its last stage. Otherwise, rounding decides on
# which side of a discontinuity of the gradient (ReLU, max pooling) some activations lie, and every
# update widens the difference: another number of threads is like another seed.
TOLERANCE = 1e-5
ANOTHER_TRAINING = ("finetune", "compare_transfer")


def run_all(folder: Path, n_threads: int) -> dict[str, dict]:
    """Make all runs from a copy of the project in `folder`; returns their `read_results`."""
    copy = folder / "project"
    copy.mkdir(parents=True)
    for name in ("entrypoints", "src"):
        shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "requirements.txt", copy)
    store = empty_store(folder / "mlflow.db")
    done = subprocess.run(
        [sys.executable, "-c", MAKE_RUNS, store, json.dumps([*FIRST, *RUNS])],
        cwd=copy,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(map(str, (copy, copy / "src", PROJECT / "tests"))),
            "EMBEDLAB_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": str(n_threads),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return read_results(mlflow.MlflowClient(store))


def read_results(client: mlflow.MlflowClient) -> dict[str, dict]:
    """The metrics of every step and the digests of the files, by run, in order of their start."""
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    results = {}
    for number, run in enumerate(client.search_runs(ids, order_by=["start_time ASC"])):
        metrics = {
            name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
            for name in sorted(run.data.metrics)
            if not name.startswith(OF_THE_MACHINE)
        }
        roots = [Path(run.info.artifact_uri)]
        for output in run.outputs.model_outputs if run.outputs else []:
            model = client.get_logged_model(output.model_id)
            roots.append(Path(model.artifact_location))
        digests = Counter()
        for root in roots:
            for path in filter(Path.is_file, root.rglob("*")):
                name = path.relative_to(root).as_posix()
                if path.name not in NOT_COMPARED:
                    name = next((n for n in NAMED_AT_RANDOM if name.startswith(n)), name)
                    digests[name, sha256(path.read_bytes()).hexdigest()] += 1
        key = f"{number} {run.data.tags['entry_point']}"
        results[key] = {"metrics": metrics, "files": digests}
    return results


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("first")


@pytest.fixture(scope="module")
def first(folder) -> dict[str, dict]:
    """Results of a fork of this process, whose generators other tests may have used."""
    process = multiprocessing.get_context("fork").Process(target=make_first, args=(folder,))
    process.start()
    process.join()
    assert process.exitcode == 0
    return read_results(mlflow.MlflowClient(empty_store(folder / "mlflow.db")))


def make_first(folder: Path) -> None:
    os.environ["EMBEDLAB_CACHE"] = str(folder / "cache")
    torch.set_num_threads(1)
    with threadpool_limits(1), fresh_store(folder):
        contract.make_runs([*FIRST, *RUNS])


def test_the_runs_hold_what_the_contract_says(first, folder):
    """After an intended change, run `python tests/contract.py` and edit CHANGELOG.md."""
    expected = json.loads(contract.FILE.read_text(encoding="utf-8"))["runs"]
    runs = contract.read_runs(mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db"))
    assert runs.keys() == expected.keys()
    for name, contents in expected.items():
        assert runs[name] == contents, name


def test_another_folder_gives_the_same_metrics_and_files_to_the_bit(first, tmp_path):
    second = run_all(tmp_path / "another place", 1)
    assert first.keys() == second.keys()
    assert len(first) == len(FIRST) + len(RUNS) + 5  # the children of compare_optimizers
    for run, result in first.items():
        # As text, because gradients of a fit that diverges are nan, which equals nothing.
        assert str(result["metrics"]) == str(second[run]["metrics"]), run
        assert result["files"] == second[run]["files"], run


@long
def test_another_number_of_threads_gives_the_same_metrics_to_rounding(first, tmp_path):
    other = run_all(tmp_path, 2)
    assert first.keys() == other.keys()
    for run in first:
        if run.endswith(ANOTHER_TRAINING) and run != "0 finetune":
            continue
        for name, values in first[run]["metrics"].items():
            expected = pytest.approx(np.array(values), rel=TOLERANCE, nan_ok=True)
            assert np.array(other[run]["metrics"][name]) == expected, (run, name)


@pytest.mark.real
@pytest.mark.parametrize("optimizer, tolerance", [("exact", 1e-9), ("adam", 1e-9)])
def test_another_number_of_threads_on_ml_latest_small(real_movielens, optimizer, tolerance):
    """Threads share the work here; the 82 movies of the sample are too few for that."""
    weighted = find_likes(read_ratings(real_movielens), "user_mean").weighted
    costs = []
    before = torch.get_num_threads()
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        with threadpool_limits(n_threads):
            options = FitOptions(optimizer, dim=20, epochs=20)
            costs.append(fit_likes(weighted, options, 0, "cpu").cost)
    torch.set_num_threads(before)
    assert costs[1] == pytest.approx(costs[0], rel=tolerance)
