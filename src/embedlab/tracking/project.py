"""The MLflow Project: its folder, and the shell commands of its entry points and models."""

import shlex
from pathlib import Path

import mlflow

from embedlab.formatting import value_as_text

PROJECT_ROOT = Path(__file__).resolve().parents[3]  # the folder of MLproject


def command(entry_point: str, **parameters: object) -> str:
    """The shell command of an entry point: `mlflow run . -e recommend … -P title='Toy Story'`.

    If the store is an SQLite file outside of the project's folder, the command names that folder
    instead of `.`, so that it works in the store's folder.
    """
    flags = (f" -P {name}={shlex.quote(value_as_text(v))}" for name, v in parameters.items())
    database = mlflow.get_tracking_uri().partition("sqlite:///")[2]
    is_elsewhere = database and Path(database).resolve().parent != PROJECT_ROOT
    project = shlex.quote(str(PROJECT_ROOT)) if is_elsewhere else "."
    start = f"mlflow run {project} -e {entry_point} --env-manager local --experiment-name embedlab"
    return start + "".join(flags)


def serve_command(model: str) -> str:
    """The shell command that serves a model, on a port other than the MLflow UI's."""
    return f"mlflow models serve -m {shlex.quote(model)} --env-manager local -p 5001"
