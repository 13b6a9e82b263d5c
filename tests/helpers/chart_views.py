"""The saved chart view of an experiment, read back from its tag."""

import json

import mlflow


def kept_view(client: mlflow.MlflowClient, experiment: str, view_id: str) -> tuple[dict, dict]:
    """The view, and its state, from the tag of the experiment."""
    tags = client.get_experiment(experiment).tags
    (name,) = [name for name in tags if name.startswith("mlflow.sharedViewState")]
    assert name == f"mlflow.sharedViewState.{view_id}"
    assert len(tags[name]) < 8_000  # MLflow takes 20,000
    view = json.loads(tags[name])
    return view, json.loads(view["state"])
