"""An entry point as a child run of another."""

import subprocess
import sys

import mlflow
import psutil
import pytest
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from embedlab.tracking.signals import EXIT_TERMINATED
from embedlab.workflows.child_run import run_entry_point

pytestmark = pytest.mark.slow


def test_a_step_ends_with_the_run_that_started_it_and_no_other_process_does(store, monkeypatch):
    parent, unrelated = store.create_run("0"), store.create_run("0")
    of_parent = {MLFLOW_PARENT_RUN_ID: parent.info.run_id}
    earlier_run = store.create_run("0", tags=of_parent)
    store.set_terminated(earlier_run.info.run_id, "FINISHED")
    command = [sys.executable, "-c", "import time; time.sleep(100)"]
    other = subprocess.Popen(command)
    steps, runs = [], []

    def told_to_stop(*_, **__):
        steps.append(subprocess.Popen(command))
        runs.append(store.create_run("0", tags=of_parent))  # which the process has not adopted
        raise SystemExit(EXIT_TERMINATED)

    monkeypatch.setattr(mlflow.projects, "run", told_to_stop)
    monkeypatch.setattr(mlflow, "active_run", lambda: parent)
    with pytest.raises(SystemExit):
        run_entry_point("recommend", {})
    (step,) = steps
    assert not psutil.pid_exists(step.pid)
    step.wait()
    assert other.poll() is None
    other.kill()
    other.wait()
    (step_run,) = runs
    ended = store.get_run(step_run.info.run_id)
    assert (ended.info.status, ended.data.tags["stop_reason"]) == ("KILLED", "sigterm")
    for run, status in ((parent, "RUNNING"), (unrelated, "RUNNING"), (earlier_run, "FINISHED")):
        assert store.get_run(run.info.run_id).info.status == status
