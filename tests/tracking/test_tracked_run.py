"""What a run logs: parameters, epochs and data sets; and where its artifacts are."""

import importlib
import json
import shlex
import time
from contextlib import nullcontext
from types import SimpleNamespace

import mlflow
import pytest
from conftest import PROJECT, use_store
from mlflow.projects import load_project
from small_runs import fresh_client, maker_of_runs, series, short_run

from embedlab.errors import TrackingError
from embedlab.progress import EpochRecord
from embedlab.tracking import lifecycle, tracked_run
from embedlab.tracking.lifecycle import TrackedRun, start_run

pytestmark = pytest.mark.slow
client = pytest.fixture(fresh_client)
make_run = pytest.fixture(maker_of_runs)


def test_parameters_in_another_spelling_are_kept_beside_the_first(client, make_run):
    make_run(lr="1e-3", dim="5", title="'Toy Story'")
    with start_run("recommend", "recommend", {"lr": 0.001, "dim": 5, "title": "Toy Story"}) as run:
        run.log_params({"lr": 0.001, "dim": 5, "device": "auto"})  # once more, and a new one
        run.log_params({"device": "cpu"})
        run.log_params({"device": "cuda"})  # MLflow allows no second value: the first one stays
    assert client.get_run(run.id).data.params == {
        "lr": "1e-3",
        "resolved/lr": "0.001",
        "dim": "5",
        "title": "'Toy Story'",
        "resolved/title": "Toy Story",
        "device": "auto",
        "resolved/device": "cpu",
    }


# Texts that `mlflow run` quotes for the shell and logs with the quotes, as it does empty defaults.
QUOTED = {
    "title": "Apollo 13|Toy Story",
    "titles": "Apollo 13|Toy Story",
    "reason": 'it\'s "better" than $HOME',
    "learning_rates": "adam:3,1/sgd:2e-5",
    "register": "true",
    "model_name": "my movies",
    "experiment": "my experiment",
    "version": "1",
}


SPEC = load_project(str(PROJECT))


ENTRY_POINTS = [SPEC.get_entry_point(path.stem) for path in PROJECT.glob("entrypoints/[!_]*.py")]


class Begun(Exception):
    """Raised with the parameters of a run, instead of beginning it."""


@pytest.mark.parametrize("entry_point", ENTRY_POINTS, ids=lambda entry_point: entry_point.name)
def test_a_value_that_mlflow_logs_in_quotes_is_shown_as_it_was_used(
    client, make_run, monkeypatch, entry_point
):
    typed = {name: text for name, text in QUOTED.items() if name in entry_point.parameters}
    logged, _ = entry_point.compute_parameters(typed, None)
    used = {p.name: typed.get(p.name, p.default) for p in entry_point.parameters.values()}
    quoted = {name for name, text in logged.items() if text != str(used[name])}
    _, _, _, *arguments = shlex.split(entry_point.compute_command(typed, None))

    def begun(*arguments, **_):
        raise Begun(arguments[2])

    with monkeypatch.context() as patched, pytest.raises(Begun) as begins:
        patched.setattr(lifecycle, "start_run", begun)
        importlib.import_module(f"entrypoints.{entry_point.name}").main(arguments)
    made = make_run()
    for name, text in logged.items():
        client.log_param(made.info.run_id, name, text)
    with start_run(entry_point.name, "shown", begins.value.args[0]) as run:
        assert run.resolved_params(quoted) == {name: used[name] for name in quoted}
    kept = client.get_run(run.id).data.params
    assert {name: kept[f"resolved/{name}"] for name in quoted} == run.resolved_params(quoted)


def test_parameters_are_spelt_as_in_mlproject_and_left_out_where_they_do_not_apply(client):
    kept = short_run(client, optimizer="exact", register=True, lr=None)
    assert kept.data.params == {"optimizer": "exact", "register": "true"}


def run_with(artifacts: str, **tags: str) -> TrackedRun:
    info = SimpleNamespace(run_id="r", run_name="a", experiment_id="1", artifact_uri=artifacts)
    return TrackedRun(SimpleNamespace(info=info, data=SimpleNamespace(params={}, tags=tags)))


def test_a_step_of_main_leaves_it_to_main_to_say_how_to_open_the_ui():
    assert "/runs/r?" in run_with("/a").ui_instructions("#/charts")
    assert run_with("/a", **{"mlflow.parentRunId": "main"}).ui_instructions("#/charts") == ""


@pytest.mark.parametrize("artifacts", ["/a b#1/artifacts", "file:///a%20b%231/artifacts"])
def test_an_artifact_in_a_folder_of_any_name_is_a_file(client, artifacts):
    assert run_with(artifacts).artifact_location("page.html") == "/a b#1/artifacts/page.html"


def test_an_artifact_of_a_local_store_is_a_file(client):
    with start_run("recommend", "a name", {}) as run:
        run.log_text("text", "a folder/page.html")
        place = run.artifact_location("a folder/page.html")
    with open(place, encoding="utf-8") as file:
        assert file.read() == "text"


@pytest.mark.parametrize(
    ("store_uri", "artifacts", "address"),
    [
        ("http://ann:secret@host:5000", "mlflow-artifacts:/1/r/artifacts", "http://host:5000"),
        (None, "s3://bucket/1/r/artifacts", "http://127.0.0.1:5000"),  # the test's own database
    ],
)
def test_an_artifact_elsewhere_is_a_page_of_the_ui(client, store_uri, artifacts, address):
    # No server is used. A relative database would lose the runs of processes that are forked later.
    with use_store(store_uri) if store_uri else nullcontext():
        place = run_with(artifacts).artifact_location("page.html")
    page = "#/experiments/1/runs/r/artifacts/page.html?workflowType=machine_learning"
    assert place == f"{address}/{page}"


def test_epochs_are_written_in_batches_and_all_are_there(client, monkeypatch):
    monkeypatch.setattr(tracked_run, "SECONDS_BETWEEN_WRITES", 1000)
    monkeypatch.setattr(tracked_run, "MAX_BATCH_METRICS", 3)
    batches, log_batch = [], mlflow.MlflowClient.log_batch

    def counting(self, run_id, metrics=(), **others):
        batches.append(len(metrics))
        return log_batch(self, run_id, metrics, **others)

    with start_run("fit_embedding", "fit", {}) as run:
        monkeypatch.setattr(mlflow.MlflowClient, "log_batch", counting)
        for epoch in range(5):
            run.log_epoch(EpochRecord(epoch, {"train/cost": 10.0 - epoch}, seconds=epoch / 2))
        run.log_epoch(EpochRecord(5, {"train/cost": 5.0}))
    # Every epoch has two metrics, except the last, which has one; memory/peak_mib comes at the end.
    assert [size for size in batches if size] == [4, 4, 3, 1]
    assert series(client, run.id, "train/cost") == [(epoch, 10.0 - epoch) for epoch in range(6)]
    assert series(client, run.id, "time/epoch_seconds") == [
        (epoch, epoch / 2) for epoch in range(5)
    ]


def test_epochs_are_seen_while_the_run_goes_on_every_two_seconds(client, monkeypatch):
    now = 0.0
    clock = SimpleNamespace(time=time.time, monotonic=lambda: now)
    monkeypatch.setattr(tracked_run, "time", clock)
    seen = []
    with start_run("fit_embedding", "fit", {}) as run:
        for epoch, now in enumerate((1.5, 2.5, 4.0, 5.0)):  # noqa: B007 (the clock reads it)
            run.log_epoch(EpochRecord(epoch, {"train/cost": 9.0}))
            seen.append(len(series(client, run.id, "train/cost")))
    assert seen == [0, 2, 2, 4]


@pytest.mark.parametrize(
    ("source", "kept_source"),
    [
        ("https://files.grouplens.org/a.zip", {"url": "https://files.grouplens.org/a.zip"}),
        ("/data/ml-25m.zip", {"uri": "/data/ml-25m.zip"}),
        ("built-in sample", {"uri": "built-in sample"}),
    ],
)
def test_a_data_set_is_kept_with_our_digest_and_its_source(client, source, kept_source):
    # MLflow identifies a data set by name and digest, and keeps its first source.
    name = f"ratings from {source}"
    with start_run("build_matrix", "build", {}) as run:
        run.log_dataset(name, "0123456789abcdef" * 4, source, "training")
    kept = client.get_run(run.id)
    (item,) = kept.inputs.dataset_inputs
    assert item.dataset.name == name
    assert item.dataset.digest == "0123456789abcdef0123456789abcdef0123"  # 36 characters
    assert json.loads(item.dataset.source) == kept_source
    assert [(tag.key, tag.value) for tag in item.tags] == [("mlflow.data.context", "training")]
    assert "source_run_id" not in kept.data.tags


def test_a_data_set_that_another_run_made_is_linked_to_it(client):
    maker = short_run(client)
    with start_run("fit_embedding", "fit", {}) as run:
        run.log_dataset("likes", "0" * 64, f"runs:/{maker.info.run_id}/matrix", "training")
    kept = client.get_run(run.id)
    (item,) = kept.inputs.dataset_inputs
    assert json.loads(item.dataset.source) == {"uri": f"{maker.info.artifact_uri}/matrix"}
    assert kept.data.tags["source_run_id"] == maker.info.run_id


def test_a_metric_that_mlflow_refuses_fails_the_run_with_its_name(client):
    with (
        pytest.raises(TrackingError, match="ndcg@10"),
        start_run("fit_embedding", "fit", {}) as run,
    ):
        run.log_metrics({"ndcg@10": 0.5})
    kept = client.get_run(run.id)
    assert (kept.info.status, kept.data.tags["stop_reason"]) == ("FAILED", "error")
    assert "ndcg@10" in kept.data.tags["error"]
