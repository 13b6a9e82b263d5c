"""An entry point as a child run of another."""

import subprocess
import sys
from types import SimpleNamespace

import mlflow
import psutil
import pytest

from embedlab.tracking.signals import EXIT_TERMINATED
from embedlab.workflows.child_run import run_entry_point

pytestmark = pytest.mark.slow


def test_a_step_ends_with_the_run_that_started_it_and_no_other_process_does(monkeypatch):
    command = [sys.executable, "-c", "import time; time.sleep(100)"]
    other = subprocess.Popen(command)
    steps = []

    def told_to_stop(*_, **__):
        steps.append(subprocess.Popen(command))
        raise SystemExit(EXIT_TERMINATED)

    monkeypatch.setattr(mlflow.projects, "run", told_to_stop)
    run = SimpleNamespace(info=SimpleNamespace(experiment_id="0"))
    monkeypatch.setattr(mlflow, "active_run", lambda: run)
    with pytest.raises(SystemExit):
        run_entry_point("recommend", {})
    (step,) = steps
    assert not psutil.pid_exists(step.pid)
    step.wait()
    assert other.poll() is None
    other.kill()
    other.wait()
