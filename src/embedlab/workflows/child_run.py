"""Run another entry point of this project as a child run, in a process of its own."""

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import mlflow
import psutil
from mlflow.exceptions import ExecutionException

from embedlab.errors import TrackingError
from embedlab.tracking.lifecycle import end_stopped_steps
from embedlab.tracking.project import PROJECT_ROOT


def run_entry_point(name: str, parameters: Mapping[str, object]) -> str:
    """Run `name` under the active run, in the environment of this process; returns its run id.

    Raises TrackingError if the entry point fails, after it has printed its own message. A SIGTERM
    to this process stops the child process, too.
    """
    parent = mlflow.active_run()
    assert parent is not None, "run_entry_point needs an active run"
    logging.getLogger("mlflow.projects").setLevel(logging.WARNING)  # else six lines per step
    python_folder = str(Path(sys.executable).parent)
    if os.environ.get("PATH", "").split(os.pathsep)[0] != python_folder:
        os.environ["PATH"] = os.pathsep.join([python_folder, os.environ.get("PATH", "")])
    # Not the step: one can be multiprocessing's resource tracker, which ignores SIGTERM.
    children_before = psutil.Process().children()
    try:
        submitted = mlflow.projects.run(
            str(PROJECT_ROOT),
            entry_point=name,
            parameters=dict(parameters),
            experiment_id=parent.info.experiment_id,
            env_manager="local",
        )
    except ExecutionException:
        raise TrackingError(f"the step {name} failed; its message is printed above.") from None
    except SystemExit:  # raised for SIGTERM; after Ctrl-C, MLflow itself stops the step
        steps = [one for one in psutil.Process().children() if one not in children_before]
        for step in steps:
            step.terminate()
        psutil.wait_procs(steps)
        end_stopped_steps(parent)
        raise
    return submitted.run_id
