"""A registered model answers after any later change of the project: it runs its own code.

There are two models: one that version 0.1 logged, with its copy of the package `embedlab` (MLflow's
folder from the store), and one that today's code logs. They are queried by `recommend`, by Python
and by `mlflow models serve`, from a changed copy of the project, in which modules have other names
and a function is in another module.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT, free_port, fresh_store
from served_models import MOVIES, ask, send, wait_for

from embedlab.tracking.lifecycle import start_run
from embedlab.workflows.movies.model import log_movie_model
from embedlab.workflows.movies.recommend import load_model, query

pytestmark = pytest.mark.slow

OLDER, TODAY = "version-0-1", "today"
# The copy renames modules, and moves a function from one module to another.
RENAMED = {
    "embedlab_serving.titles": "embedlab_serving.names",
    "embedlab_serving.neighbours": "embedlab_serving.nearest",
    "embedlab_serving.http_errors": "embedlab_serving.refusals",
    "embedlab_serving.hashing": "embedlab_serving.digests",
}


@dataclass(frozen=True)
class Registered:
    """A registered model, its folder, and the folder of the store that holds it."""

    uri: str
    folder: Path

    def expected(self, k: int) -> list[str]:
        """The k movies with the largest inner products with "Toy Story", by its own files."""
        movies = pd.read_csv(self.folder / "artifacts/embedding/movies.csv")
        vectors = np.load(self.folder / "artifacts/embedding/vectors.npy").astype(np.float64)
        row = movies["title"].tolist().index("Toy Story (1995)")
        scores = vectors @ vectors[row]
        scores[row] = -np.inf
        return movies["title"].iloc[np.argsort(-scores)[:k]].tolist()


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Iterator[dict[str, Registered]]:
    """Both models by name, in a fresh store."""
    folder = tmp_path_factory.mktemp("store")
    older = folder / "as-it-was-logged"
    with zipfile.ZipFile(PROJECT / "tests/data/movie_model_0.1.zip") as packed:
        packed.extractall(older)
    about = (older / "MLmodel").read_text(encoding="utf-8")
    of_its_store = ("model_id:", "run_id:", "artifact_path:")  # unknown to the fresh one
    kept = [line for line in about.splitlines(True) if not line.startswith(of_its_store)]
    (older / "MLmodel").write_text("".join(kept), encoding="utf-8")
    vectors = np.random.default_rng(0).normal(size=(len(MOVIES), 4)).astype(np.float32)
    with fresh_store(folder):
        with start_run("fit_embedding", "fit", {}) as run:
            today = log_movie_model(run, vectors, MOVIES, {"data": "twelve movies", "cost": 1.5})
        registered = {}
        for name, uri in ((OLDER, str(older)), (TODAY, today)):
            mlflow.register_model(uri, name)
            local = mlflow.artifacts.download_artifacts(f"models:/{name}/1")
            registered[name] = Registered(f"models:/{name}/1", Path(local))
        yield registered


@pytest.fixture(scope="module")
def changed_project(tmp_path_factory) -> Path:
    """A copy of the project in which `embedlab_serving` is another package."""
    folder = tmp_path_factory.mktemp("changed")
    shutil.copy(PROJECT / "requirements.txt", folder)
    for part in ("src", "entrypoints"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / part, folder / part, ignore=ignored)
    serving = folder / "src/embedlab_serving"
    moved = (serving / "hashing.py").read_text(encoding="utf-8").partition('"""\n')[2]
    with open(serving / "digests.py", "a", encoding="utf-8") as file:
        file.write(moved)
    (serving / "hashing.py").unlink()
    digests = serving / "digests.py"
    own_import = "from embedlab_serving.hashing import sha256_of\n"
    digests.write_text(digests.read_text(encoding="utf-8").replace(own_import, ""), "utf-8")
    for old, new in RENAMED.items():
        source = folder / "src" / f"{old.replace('.', '/')}.py"
        if source.exists():
            source.rename(folder / "src" / f"{new.replace('.', '/')}.py")
    for path in folder.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for old, new in RENAMED.items():
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def older_server(models, tmp_path_factory) -> Iterator[tuple[str, subprocess.Popen, Path]]:
    """`mlflow models serve` of the older model, which loads while other tests run: its address,
    process and log."""
    port, folder = free_port(), tmp_path_factory.mktemp("server")
    command = ["mlflow", "models", "serve", "-m", models[OLDER].uri, "--env-manager", "local"]
    with (folder / "log").open("w") as output:
        process = subprocess.Popen(
            [*command, "-h", "127.0.0.1", "-p", str(port)],
            cwd=folder,
            env=os.environ | {"MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield f"http://127.0.0.1:{port}", process, folder / "log"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_in(project: Path, code: str, *arguments: str) -> str:
    """The output of `code` in a new process that imports the packages of this project."""
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=project,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join([str(project / "src"), str(project)]),
            "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


RECOMMEND = """
import sys
from entrypoints import recommend
for uri in sys.argv[1:]:
    recommend.main(["--title", "Toy Story", "--model", uri, "--k", "3"])
"""
LOAD = """
import json, sys
import mlflow, pandas as pd
import embedlab_serving.names, embedlab_serving.nearest  # modules of this process, not of a model
for uri in sys.argv[1:]:
    model = mlflow.pyfunc.load_model(uri)
    answer = model.predict(pd.DataFrame({"title": ["Toy Story"]}), params={"k": 3})
    print(json.dumps(answer["title"].tolist()))
"""


@pytest.mark.usefixtures("older_server")
def test_recommend_of_a_changed_project_asks_models_of_both_versions(models, changed_project):
    """One process loads its own modules before, between and after those of the models."""
    uris = [models[name].uri for name in (OLDER, TODAY, OLDER)]
    run_in(changed_project, RECOMMEND, *uris)
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    for name in models:
        of_model = [run for run in runs if run.data.params.get("model") == models[name].uri]
        assert of_model
        for run in of_model:
            table = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/recommendations.json")
            answer = pd.DataFrame(table["data"], columns=table["columns"])
            assert answer["query"].unique().tolist() == ["Toy Story (1995)"]
            assert answer["title"].tolist() == models[name].expected(3)


def test_python_of_a_changed_project_asks_models_of_both_versions(models, changed_project):
    names = (TODAY, OLDER, TODAY)
    printed = run_in(changed_project, LOAD, *(models[name].uri for name in names))
    answers = [json.loads(line) for line in printed.splitlines()]
    assert answers == [models[name].expected(3) for name in names]


def test_a_server_answers_with_a_model_of_version_0_1(models, older_server):
    """A server of today's model is in `test_movie_model`."""
    address, process, log = older_server
    wait_for(address, process, log)
    response = send(address, ask("Toy Story", k=3))
    assert response.status == 200, response.text
    predictions = json.loads(response.text)["predictions"]
    assert [item["title"] for item in predictions] == models[OLDER].expected(3)


def test_a_model_of_version_0_1_answers_as_a_folder_beside_todays_code(models):
    """`recommend` hides this process's `embedlab` only while it loads the model."""
    folder = models[OLDER].folder
    answer = query(load_model(str(folder)), ["toy story"], {"k": 3})
    assert answer["title"].tolist() == models[OLDER].expected(3)
    assert sys.modules["embedlab.workflows.movies.recommend"].load_model is load_model


def test_a_model_runs_its_own_code_when_the_folder_of_another_is_gone(models, tmp_path):
    """Both models have the same code, and Python keeps modules whose files are gone."""
    for name in ("first", "second"):
        folder = shutil.copytree(models[TODAY].folder, tmp_path / name)
        answer = query(load_model(str(folder)), ["Toy Story"], {"k": 2})
        assert answer["title"].tolist() == models[TODAY].expected(2)
        shutil.rmtree(folder)
        for module in [module for module in sys.modules if module.endswith(".neighbours")]:
            if module.startswith("embedlab_serving_"):  # which an image model does not import
                del sys.modules[module]
