"""The entry points, on the built-in sample: what a user sees, and what MLflow keeps.

The tests share one store in a temporary folder, filled by one `mlflow run` of `main` there.
"""

import base64
import importlib
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import mlflow
import pandas as pd
import pytest
from conftest import PROJECT, use_store
from mlflow.entities import Run
from PIL import Image

from embedlab.cli.parser import run_main

pytestmark = pytest.mark.slow

EPOCHS, DIM, TRAIN = 30, 12, 160
FAMILY_FILMS = {"Lion King, The (1994)", "Toy Story 2 (1999)", "Aladdin (1992)"}


@dataclass(frozen=True)
class Ended:
    """A process that has ended; `run` is the MLflow run that it made first."""

    code: int
    stdout: str
    stderr: str
    run: Run

    @property
    def sentences(self) -> list[str]:
        return [line for line in self.stderr.splitlines() if line.startswith("embedlab: ")]


class Store:
    """A tracking store in `folder`, and the two ways to start an entry point on it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.uri = f"sqlite:///{folder}/mlflow.db"
        self.client = mlflow.MlflowClient(self.uri)
        kept = {name: value for name, value in os.environ.items() if "MLFLOW_" not in name}
        temporary = folder / "temporary"  # MLflow leaves a folder there for every run
        temporary.mkdir()
        self.environment = kept | {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "EMBEDLAB_CACHE": str(folder / "cache"),
            "TMPDIR": str(temporary),
            "COLUMNS": "200",  # no title is folded
        }

    def mlflow_run(self, entry_point: str, experiment: str, **parameters: object) -> Ended:
        """Call `mlflow run <project>` in the store's folder, where MLflow makes the store."""
        flags = [word for name, value in parameters.items() for word in ("-P", f"{name}={value}")]
        options = ["-e", entry_point, "--env-manager", "local", "--experiment-name", experiment]
        command = ["mlflow", "run", str(PROJECT), *options, *flags]
        return self._end_of(command, self.folder, self.environment, experiment)

    def call(self, entry_point: str, experiment: str, **parameters: object) -> Ended:
        """Call `run_main(main)` in this process, as `python -m entrypoints.x` does."""
        module = importlib.import_module(f"entrypoints.{entry_point}")
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in parameters.items()]
        where = {"EMBEDLAB_CACHE": str(self.folder / "cache"), "MLFLOW_EXPERIMENT_NAME": experiment}
        stdout, stderr, code = io.StringIO(), io.StringIO(), 0
        with (
            use_store(self.uri),
            chdir(self.folder),  # MLflow keeps the artifacts of a new experiment there
            patch.dict(os.environ, where),
            patch.object(sys, "argv", [entry_point, *flags]),
            redirect_stdout(stdout),
            redirect_stderr(stderr),
        ):
            try:
                run_main(module.main)
            except SystemExit as ended:
                code = ended.code
        newest = self.runs(experiment)[-1]
        return Ended(code, stdout.getvalue(), stderr.getvalue(), newest)

    def _end_of(self, command, folder, environment, experiment) -> Ended:
        ended = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
        )
        assert "Traceback" not in ended.stderr, ended.stderr
        made = self.runs(experiment)
        assert made, ended.stderr
        return Ended(ended.returncode, ended.stdout, ended.stderr, made[0])

    def runs(self, experiment: str) -> list[Run]:
        """The runs of an experiment, oldest first."""
        existing = self.client.get_experiment_by_name(experiment)
        return self.client.search_runs([existing.experiment_id], order_by=["start_time ASC"])

    def steps(self, run: Run) -> list[Run]:
        """The nested runs of a run, oldest first."""
        query = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
        experiments = [run.info.experiment_id]
        return self.client.search_runs(experiments, query, order_by=["start_time ASC"])

    def artifacts(self, run: Run, folder: str | None = None) -> set[str]:
        paths = set()
        for item in self.client.list_artifacts(run.info.run_id, folder):
            paths |= self.artifacts(run, item.path) if item.is_dir else {item.path}
        return paths

    def artifact(self, run: Run, path: str) -> Path:
        return Path(self.client.download_artifacts(run.info.run_id, path))

    def series(self, run: Run, metric: str) -> dict[int, float]:
        """Epoch -> value; an epoch that was logged twice would be a zigzag in the UI."""
        history = self.client.get_metric_history(run.info.run_id, metric)
        values = {point.step: point.value for point in history}
        assert len(values) == len(history)
        return values


@dataclass(frozen=True)
class Everything:
    """What one `mlflow run` of `main` made."""

    store: Store
    main: Ended
    build_matrix: Run
    fit_embedding: Run
    recommend: Run
    compare_optimizers: Run
    evaluate_embedding: Run
    extract_features: Run
    finetune: Run
    compare_transfer: Run
    commits: set[str]  # of the project before and after the run


def head_commit() -> str:
    command = ["git", "rev-parse", "HEAD"]
    answer = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    return answer.stdout.strip() if answer.returncode == 0 else "unknown"


def stores_in_project() -> set[str]:
    return {path.name for path in PROJECT.iterdir()} & {"mlflow.db", "mlruns", "mlartifacts"}


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> Everything:
    commit, stores = head_commit(), stores_in_project()
    store = Store(tmp_path_factory.mktemp("store"))
    ended = store.mlflow_run("main", "embedlab", dim=DIM, epochs=EPOCHS, train_limit=TRAIN)
    assert ended.code == 0, ended.stderr
    steps = store.steps(ended.run)
    assert len(steps) == 8
    assert stores_in_project() == stores
    return Everything(store, ended, *steps, {commit, head_commit()})


@pytest.fixture(scope="module")
def store(everything) -> Store:
    return everything.store


def titles_printed(text: str) -> list[str]:
    """The title column of a printed table."""
    rows = [line.split("│") for line in text.splitlines() if re.match(r"│ +\d+ │", line)]
    return [row[3].strip() for row in rows]


def sources(run: Run) -> list[tuple[str, str]]:
    """(name, source) of every data set that went into a run; each has a digest and a context."""
    inputs = []
    for item in run.inputs.dataset_inputs:
        assert re.fullmatch("[0-9a-f]{36}", item.dataset.digest)
        assert [tag.key for tag in item.tags] == ["mlflow.data.context"]
        inputs.append((item.dataset.name, json.loads(item.dataset.source)["uri"]))
    return inputs


def assert_failed(ended: Ended, sentence: str, stop_reason: str) -> None:
    """Assert exit code 1, one sentence for the user, and the same sentence in the run."""
    (said,) = ended.sentences
    assert ended.code == 1
    assert re.fullmatch(f"embedlab: {sentence}", said)
    assert ended.run.info.status == "FAILED"
    assert ended.run.data.tags["stop_reason"] == stop_reason
    assert ended.run.data.tags["error"] == said.removeprefix("embedlab: ")


# -- main and its eight steps ----------------------------------------------------------------


def test_main_is_a_run_with_its_steps_nested(everything):
    main = everything.main.run
    steps = everything.store.steps(main)
    assert [run.data.tags["entry_point"] for run in (main, *steps)] == [
        "main",
        "build_matrix",
        "fit_embedding",
        "recommend",
        "compare_optimizers",
        "evaluate_embedding",
        "extract_features",
        "finetune",
        "compare_transfer",
    ]
    assert {run.info.status for run in (main, *steps)} == {"FINISHED"}
    assert {run.data.tags["stop_reason"] for run in (main, *steps)} == {"finished"}
    assert "mlflow.parentRunId" not in main.data.tags
    for run in (main, *steps):  # named by what they do, not by MLflow's random words
        name = run.data.tags["entry_point"].removeprefix("extract_")
        assert run.info.run_name.startswith(name.split("_")[0])
    assert everything.main.sentences == []


def test_main_ends_with_the_report_of_its_steps(everything):
    store, main = everything.store, everything.main.run
    last = everything.main.stdout.strip().splitlines()[-1]
    path = Path(last.removeprefix("The answers, on one page: "))
    assert path.is_absolute()
    page = path.read_text(encoding="utf-8")
    assert page == store.artifact(main, "report.html").read_text(encoding="utf-8")
    assert "mlflow run" not in page  # nothing is missing
    for step in store.steps(main)[1:]:
        assert f"/runs/{step.info.run_id}" in page
    for run in (everything.extract_features, everything.finetune):
        assert f"<strong>{run.data.metrics['test/accuracy']:.1%}" in page
    description = main.data.tags["mlflow.note.content"]
    assert (
        everything.compare_transfer.data.tags["mlflow.note.content"].split("\n")[2] in description
    )
    assert "`weights=none`" in description


def test_every_run_tells_the_code_it_ran(everything):
    for run in everything.store.runs("embedlab"):
        assert run.data.tags["git.commit"] in everything.commits
        assert run.data.tags["git.dirty"] in ("true", "false", "unknown")


def test_main_registers_the_model_as_champion(everything):
    client = everything.store.client
    champion = client.get_model_version_by_alias("movie-embedding", "champion")
    assert champion.run_id == everything.fit_embedding.info.run_id
    assert "movie-embedding version 1 is champion" in everything.main.stdout
    assert everything.fit_embedding.data.tags["registered_model"] == "movie-embedding 1 (champion)"


BOTH_MODELS = """
import multiprocessing, sys
import pandas as pd, torch, torchvision
import mlflow.pyfunc

def load(order):
    models = {name: mlflow.pyfunc.load_model(f"models:/{name}@champion") for name in order}
    requests = {
        "movie-embedding": pd.DataFrame({"title": ["Toy Story"]}),
        "image-classifier": pd.DataFrame({"image": [sys.argv[1]]}),
    }
    for name, model in models.items():
        print(name, model.predict(requests[name], params={"k": 2}).shape, flush=True)

for order in (["movie-embedding", "image-classifier"], ["image-classifier", "movie-embedding"]):
    process = multiprocessing.get_context("fork").Process(target=load, args=(order,))
    process.start()
    process.join()
"""


def test_one_process_without_the_project_loads_both_models_in_any_order(everything, tmp_path):
    """Both models carry a copy of the code under one name, and Python keeps the first import."""
    Image.new("RGB", (8, 8)).save(buffer := io.BytesIO(), "png")
    ended = subprocess.run(
        [sys.executable, "-c", BOTH_MODELS, base64.b64encode(buffer.getvalue()).decode()],
        cwd=tmp_path,
        env=everything.store.environment | {"MLFLOW_TRACKING_URI": everything.store.uri},
        capture_output=True,
        text=True,
    )
    movies, images = "movie-embedding (2, 6)", "image-classifier (1, 3)"
    assert ended.stdout.splitlines() == [movies, images, images, movies], ended.stderr


def test_main_prints_recommendations_and_how_to_see_the_runs(everything):
    printed = everything.main.stdout
    assert "Recommended for Toy Story (1995)" in printed
    titles = titles_printed(printed)
    assert len(titles) == 10
    # The films of one taste group of the sample are liked together, so the answer is known.
    assert set(titles) >= FAMILY_FILMS
    run = everything.main.run
    page = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    address = f"http://127.0.0.1:5000/{page}?workflowType=machine_learning"
    start, address_line = printed.splitlines()[-4:-2]  # before the report
    assert start == f"Start  mlflow ui --backend-store-uri {everything.store.uri}"
    assert address_line == f"Open   {address}"


def test_main_keeps_its_parameters_as_given_and_as_resolved(everything):
    params = everything.main.run.data.params
    assert (params["ratings"], params["epochs"]) == ("sample", str(EPOCHS))
    # MLflow itself logs a text with a space as it quotes it for the shell.
    assert (params["title"], params["resolved/title"]) == ("'Toy Story'", "Toy Story")
    assert (params["lr"], params["resolved/lr"]) == ("auto", "1.0")


def test_build_matrix_logs_counts_figures_and_the_matrix(everything):
    run = everything.build_matrix
    assert everything.store.artifacts(run) == {
        "figures/popularity.png",
        "figures/ratings.png",
        "figures/top_block.png",
        "matrix/about.json",
        "matrix/counts.npz",
        "matrix/likes.npz",
        "matrix/movies.csv",
    }
    metrics = run.data.metrics
    params = run.data.params
    assert (params["data/users"], params["data/movies"]) == ("240", "82")
    assert metrics["matrix/density"] == metrics["matrix/nonzeros"] / 82**2
    assert {"time/sparse_seconds", "time/dense_seconds", "memory/peak_mib"} <= set(metrics)
    assert run.data.params["like_rule"] == "user_mean"
    assert sources(run) == [("sample", "built-in sample")]
    image = everything.store.artifact(run, "figures/top_block.png").read_bytes()
    assert image.startswith(b"\x89PNG")


def test_fit_embedding_logs_every_epoch(everything):
    series = {
        metric: everything.store.series(everything.fit_embedding, metric)
        for metric in ("train/cost", "train/gradient_norm", "train/gap", "time/epoch_seconds")
    }
    # Epoch e has the values before update e; the last one evaluates the result, without update.
    epochs = list(range(EPOCHS + 1))
    for metric in ("train/cost", "train/gradient_norm", "train/gap"):
        assert list(series[metric]) == epochs
        assert all(map(math.isfinite, series[metric].values()))
    assert list(series["time/epoch_seconds"]) == epochs[:-1]

    metrics, cost = everything.fit_embedding.data.metrics, series["train/cost"]
    assert metrics["final/cost"] == cost[EPOCHS] < cost[0] / 10
    for epoch in epochs:
        gap = cost[epoch] / metrics["reference/cost"] - 1
        assert series["train/gap"][epoch] == pytest.approx(gap, rel=1e-12)  # up to rounding
    assert series["train/gap"][EPOCHS] > 0  # nothing is below the exact cost


def test_fit_embedding_logs_parameters_lineage_and_the_embedding(everything):
    run, matrix_run = everything.fit_embedding, everything.build_matrix
    params = run.data.params
    assert (params["optimizer"], params["dim"], params["seed"]) == ("adam", str(DIM), "0")
    assert (params["lr"], params["resolved/lr"]) == ("auto", "1.0")
    assert params["resolved/ratings"] == "sample"  # the matrix was made from them
    assert params["data_digest"] == matrix_run.data.params["data_digest"]
    ((name, source),) = sources(run)
    assert name == "sample likes"
    assert source.endswith(f"{matrix_run.info.run_id}/artifacts/matrix")
    assert run.data.tags["source_run_id"] == matrix_run.info.run_id
    assert everything.store.artifacts(run) == {
        "embedding/about.json",
        "embedding/movies.csv",
        "embedding/vectors.npy",
        "explore.html",
        "figures/cost.png",
        "figures/movie_map.png",
        "model_card.md",
    }
    assert len(run.outputs.model_outputs) == 1


def test_recommend_logs_the_table_that_it_printed(everything):
    run = everything.recommend
    assert everything.store.artifacts(run) == {"recommendations.json", "recommendations.txt"}
    path = everything.store.artifact(run, "recommendations.json")
    logged = pd.DataFrame(**json.loads(path.read_text(encoding="utf-8")))
    printed = titles_printed(everything.main.stdout)
    assert logged["title"].tolist() == printed
    assert logged["rank"].tolist() == list(range(1, 11))
    assert logged["score"].is_monotonic_decreasing
    text = everything.store.artifact(run, "recommendations.txt").read_text(encoding="utf-8")
    assert titles_printed(text) == printed


@pytest.mark.parametrize("name", ["extract_features", "finetune"])
def test_an_image_run_logs_epochs_report_figures_and_model(everything, name):
    run, store = getattr(everything, name), everything.store
    epochs = list(range(1, 1 + int(run.data.params["resolved/epochs"])))
    for metric in ("train/loss", "train/accuracy", "val/loss", "val/accuracy"):
        assert list(store.series(run, metric)) == epochs
    metrics = run.data.metrics
    series = (store.series(run, metric).values() for metric in ("val/accuracy", "val/loss"))
    best = max(zip(*series, epochs, strict=True), key=lambda epoch: (epoch[0], -epoch[1]))
    assert [metrics[f"best/{of}"] for of in ("val_accuracy", "val_loss", "epoch")] == list(best)
    assert metrics["test/accuracy_low"] < metrics["test/accuracy"] < metrics["test/accuracy_high"]
    assert {"test/loss", "test/calibration_error", "time/fit_seconds"} <= set(metrics)
    counts = {part: run.data.params[f"data/{part}"] for part in ("train", "val", "test")}
    assert counts == {"train": str(TRAIN), "val": "225", "test": "300"}
    # Both entry points log these names, whether the values were given or chosen.
    assert {"resolved/optimizer", "resolved/lr", "resolved/epochs"} <= set(run.data.params)
    ((data, source),) = sources(run)
    assert (data, source) == ("digits sample", "built-in sample")

    artifacts = store.artifacts(run)
    of_features = {"embedding_map", "neighbours"} if name == "extract_features" else set()
    shown = {"confusion", "curves", "predictions", "training_pictures"} | of_features
    assert {path for path in artifacts if path.startswith("figures/")} == {
        f"figures/{figure}.png" for figure in shown
    }
    assert artifacts >= {
        "classifier/about.json",
        "classifier/weights.safetensors",
        "model_card.md",
        "predictions/test.npz",
        "tables/confusion.json",
        "tables/per_class.json",
        "tables/predictions.json",
    }
    grids = [p for p in artifacts if p.startswith("images/val_predictions") and "png" in p]
    assert len(grids) == 1 + len(epochs)  # and one with the true classes at step 0
    assert len(run.outputs.model_outputs) == 1


def test_the_table_of_predictions_has_the_images_in_it(everything):
    path = everything.store.artifact(everything.finetune, "tables/predictions.json")
    table = pd.DataFrame(**json.loads(path.read_text(encoding="utf-8")))
    columns = ["class", "kind", "rank", "picture", "predicted", "confidence"]
    assert table.columns.tolist() == columns
    assert table.groupby(["class", "kind"]).size().max() == 5
    assert all(item["type"] == "image" for item in table["picture"])
    right = table[table["kind"] == "right"]
    assert (right["class"] == right["predicted"]).all()
    wrong = table[table["kind"] == "wrong"]
    assert (wrong["class"] != wrong["predicted"]).all()


def test_main_registers_the_classifier_and_compares_the_two(everything):
    client, printed = everything.store.client, everything.main.stdout
    champion = client.get_model_version_by_alias("image-classifier", "champion")
    assert champion.run_id == everything.finetune.info.run_id
    accuracy = everything.finetune.data.metrics["best/val_accuracy"]
    assert float(champion.tags["val_accuracy"]) == accuracy
    run = everything.compare_transfer
    ids = f"{everything.extract_features.info.run_id},{everything.finetune.info.run_id}"
    assert set(run.data.tags["compared_runs"].split(",")) == set(ids.split(","))
    words = everything.store.artifact(run, "summary.md").read_text(encoding="utf-8")
    assert words in printed
    assert run.data.tags["mlflow.note.content"] == words
    assert everything.store.artifacts(run) >= {
        *(f"figures/{n}.png" for n in ("curves", "accuracy", "classes", "disagreements_1")),
        *(f"tables/{n}.json" for n in ("runs", "pairs", "recall")),
    }
    assert 0 <= run.data.metrics["difference/p_value"] <= 1


@pytest.mark.parametrize(
    ("model", "name"), [("movie-embedding", "fit_embedding"), ("image-classifier", "finetune")]
)
def test_a_registered_version_says_all_about_itself(everything, model, name):
    version = everything.store.client.get_model_version(model, "1")
    run = getattr(everything, name)
    params, metrics, tags = run.data.params, run.data.metrics, version.tags
    assert tags["git.commit"] == run.data.tags["git.commit"]
    assert tags["entry_point"] == name
    assert tags["data_digest"] == params["data_digest"]
    assert (tags["lr"], tags["seed"]) == (params["resolved/lr"], params["seed"])
    if name == "fit_embedding":
        assert float(tags["cost"]) == metrics["final/cost"]
        assert float(tags["gap"]) == metrics["final/cost"] / metrics["reference/cost"] - 1
        facts = [f"{metrics['final/cost']:,.0f}", "users and ratings invented", "240 users"]
    else:
        low, high = metrics["test/accuracy_low"], metrics["test/accuracy_high"]
        assert float(tags["val_accuracy"]) == metrics["best/val_accuracy"]
        assert (float(tags["test_accuracy_low"]), float(tags["test_accuracy_high"])) == (low, high)
        facts = [f"{low:.2%} to {high:.2%}", "CC BY 4.0", f"{TRAIN} images to train"]
    for fact in [*facts, tags["git.commit"], run.info.run_id, f"models:/{model}/1"]:
        assert fact in version.description
    card = everything.store.artifact(run, "model_card.md").read_text(encoding="utf-8")
    assert card == version.description.replace(f"{model}/1", f"{model}@champion")


# -- single entry points -----------------------------------------------------------------------


def test_titles_with_spaces_and_quotes_get_through_mlflow_run(store):
    ended = store.mlflow_run("recommend", "quotes", title="Schindler's List | the matrix", k=3)
    assert ended.code == 0, ended.stderr
    assert "Recommended for Schindler's List (1993) | Matrix, The (1999)\n" in ended.stdout
    assert len(titles_printed(ended.stdout)) == 3
    assert ended.run.data.params["resolved/title"] == "Schindler's List | the matrix"
    assert ended.run.info.status == "FINISHED"


def test_the_same_seed_gives_the_same_costs_however_it_is_started(everything):
    """`main` has made the same fit under `mlflow run`, with lr=auto."""
    store, by_mlflow = everything.store, everything.fit_embedding
    matrix = f"runs:/{everything.build_matrix.info.run_id}/matrix"
    same = {"matrix": matrix, "dim": DIM, "epochs": EPOCHS, "seed": 0}
    by_python = store.call("fit_embedding", "seed-python", lr="1e0", **same)
    assert by_python.code == 0, by_python.stderr
    costs = store.series(by_mlflow, "train/cost")
    assert len(costs) == EPOCHS + 1
    assert store.series(by_python.run, "train/cost") == costs
    # The parameter as it was given, and the number that was used.
    params = by_mlflow.data.params
    assert (params["lr"], params["resolved/lr"]) == ("auto", "1.0")
    assert by_python.run.data.params["lr"] == "1.0"
    assert "resolved/lr" not in by_python.run.data.params
    # This fit is not registered: the only version is still main's.
    assert len(store.client.search_model_versions("name='movie-embedding'")) == 1


def test_a_fit_that_diverges_says_where_and_keeps_what_was_finite(store):
    ended = store.call(
        "fit_embedding", "diverged", ratings="sample", optimizer="sgd", lr=1, dim=10, epochs=20
    )
    costs = store.series(ended.run, "train/cost")
    sentence = (
        rf"sgd lr=1 diverged: the cost is not finite at epoch {len(costs)}; try a smaller "
        r"learning rate, such as lr=0\.1, or a smaller init_scale than 1\."
    )
    assert_failed(ended, sentence, "diverged")
    assert list(costs) == list(range(len(costs)))
    assert 0 < len(costs) < 20
    # MLflow's database keeps an infinite value as the largest number there is.
    assert all(cost < sys.float_info.max for cost in costs.values())
    assert store.artifacts(ended.run) == {"figures/cost.png"}
    assert ended.run.outputs.model_outputs == []


def test_an_unknown_title_gets_suggestions(store):
    model = "models:/movie-embedding/1"
    ended = store.call("recommend", "unknown-title", title="Terminater 7", model=model)
    sentence = (
        r'No movie is called "Terminater 7", but the nearest titles are .*'
        r"Terminator 2: Judgment Day \(1991\).*; write one in full\."
    )
    assert_failed(ended, sentence, "error")
    assert ended.stdout == ""
    assert store.artifacts(ended.run) == set()


def test_a_missing_model_is_told_with_what_to_do(store):
    ended = store.call("recommend", "missing-model", model="models:/no-such@champion")
    sentence = (
        rf"model: 'models:/no-such@champion' cannot be loaded from {store.uri} \(.*not found\): "
        r"fit and register one with `mlflow run \S+ -e fit_embedding .* -P register=true`, or give "
        r"model=runs:/<run id>/model\."
    )
    assert_failed(ended, sentence, "error")


SMALL = {
    "dataset": "sample",
    "weights": "none",
    "resolution": 32,
    "train_limit": 100,
    "val_limit": 20,
    "test_limit": 20,
}


def test_the_best_of_each_kind_is_compared_where_no_run_is_named(everything):
    ended = everything.store.call("compare_transfer", "embedlab")
    assert ended.code == 0, ended.stderr
    compared = set(ended.run.data.tags["compared_runs"].split(","))
    assert compared == {
        everything.extract_features.info.run_id,
        everything.finetune.info.run_id,
    }


def test_a_comparison_without_runs_says_what_to_make(store):
    ended = store.call("compare_transfer", "nothing-to-compare")
    assert_failed(ended, "runs: expected a finished run of each of extract_features .*", "error")


def test_ctrl_c_leaves_a_run_that_another_goes_on_with(store):
    """A run is stopped after epoch 1; the run that resumes it has all epochs and the same data."""
    experiment = "stopped"
    location = str(store.folder / "mlruns" / experiment)
    store.client.create_experiment(experiment, artifact_location=location)
    where = {"MLFLOW_TRACKING_URI": store.uri, "MLFLOW_EXPERIMENT_NAME": experiment}
    parameters = SMALL | {"batch_size": 16, "epochs": 5, "head": "linear_probe"}  # epoch 0
    flags = [word for k, v in parameters.items() for word in (f"--{k.replace('_', '-')}", str(v))]
    process = subprocess.Popen(
        [sys.executable, "-m", "entrypoints.finetune", *flags],
        cwd=PROJECT,
        env=store.environment | where | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore SIGINT, and so do their child processes.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    printed = []
    for line in process.stdout:
        printed.append(line)
        if line.startswith("    1  "):  # the first epoch
            process.send_signal(signal.SIGINT)
            break
    rest, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in errors
    (run,) = store.runs(experiment)
    assert f"-P resume={run.info.run_id}" in rest
    assert (run.info.status, run.data.tags["stop_reason"]) == ("KILLED", "ctrl-c")

    ended = store.call("finetune", "resumed", resume=run.info.run_id)
    assert ended.code == 0, ended.stderr
    assert list(store.series(ended.run, "val/accuracy")) == list(range(6))
    assert ended.run.data.tags["resumed_from"] == run.info.run_id
    first = store.series(run, "val/accuracy")
    assert store.series(ended.run, "val/accuracy")[1] == first[1]
    assert ended.run.data.params["resolved/dataset"] == "sample"
    assert ended.run.data.params["data/train"] == "100"
