"""Runs that do next to nothing, and what the store keeps of them."""

from collections.abc import Callable

import mlflow
from mlflow.entities import Run

from embedlab.tracking.lifecycle import start_run


def fresh_client(store, monkeypatch) -> mlflow.MlflowClient:
    """A fixture: the client of a store in which no experiment is chosen and no run adopted."""
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return store


def maker_of_runs(client, monkeypatch) -> Callable[..., Run]:
    """A fixture: make a run as `mlflow run` does, before the entry point starts."""

    def make(experiment: str = "made elsewhere", name: str | None = None, **params: str) -> Run:
        existing = client.get_experiment_by_name(experiment)
        id_ = existing.experiment_id if existing else client.create_experiment(experiment)
        run = client.create_run(id_, run_name=name)
        for key, value in params.items():
            client.log_param(run.info.run_id, key, value)
        mlflow.set_experiment(experiment_id=id_)
        monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
        return run

    return make


def short_run(client: mlflow.MlflowClient, **params: object) -> Run:
    """Make a run that does nothing; returns it as the store has it."""
    with start_run("fit_embedding", "fit adam", params) as run:
        pass
    return client.get_run(run.id)


def series(client: mlflow.MlflowClient, run_id: str, metric: str) -> list[tuple[int, float]]:
    """(epoch, value) of every point, in the order of the epochs."""
    return [(point.step, point.value) for point in client.get_metric_history(run_id, metric)]
