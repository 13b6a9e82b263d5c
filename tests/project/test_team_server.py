"""`docs/team-server.md`, command by command, and what a team does with its server.

The tests use a PostgreSQL of their own, on a socket in a temporary folder, and the real `mlflow
server`, set up by the page's own commands. `helpers/stand_ins.py` does to that folder what the
commands (`sudo`, `apt-get`, `systemctl`, …) would do to the machine; paths and port are replaced.

The tests depend on each other, in this order. They take two minutes on two cores, most of it for
starting Python and MLflow. Tests that would take as long again (`main`, a training that is resumed
after an outage, first runs on PostgreSQL without a server) run only with EMBEDLAB_LONG_TESTS.
"""

import importlib
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import chdir, contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path
from tempfile import mkdtemp
from unittest.mock import patch

import mlflow
import pytest
import sqlalchemy
import yaml
from conftest import PROJECT, free_port, long, use_store

from embedlab.cli.parser import run_main
from embedlab.errors import StoreUnavailableError, TrackingError
from embedlab.progress import EpochRecord
from embedlab.tracking import database
from embedlab.tracking.database import initialise_store
from embedlab.tracking.lifecycle import start_run
from entrypoints import build_matrix
from entrypoints.main import STEPS

pytestmark = pytest.mark.slow

PAGE = (PROJECT / "docs" / "team-server.md").read_text(encoding="utf-8")
SECTIONS = dict(part.split("\n", 1) for part in PAGE.split("\n## ")[1:])
BLOCKS = {
    name: re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL) for name, text in SECTIONS.items()
}
ENTRY_POINTS = yaml.safe_load((PROJECT / "MLproject").read_text(encoding="utf-8"))["entry_points"]
RETRY = "--retry 60 --retry-delay 1 --retry-connrefused"
FOLDERS = ("etc/systemd/system", "srv", "var/backups", "var/lib/postgresql", "var/run/postgresql")


def postgresql_programs() -> Path | None:
    """The folder of the newest PostgreSQL; Debian puts only its client programs on the PATH."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if programs:
        return programs[-1].parent
    elsewhere = shutil.which("initdb")
    return Path(elsewhere).parent if elsewhere else None


class Team:
    """The machine of the page, as a folder, and a folder in which its users work."""

    def __init__(self, programs: Path):
        self.root = Path(mkdtemp(prefix="team-", dir="/tmp"))  # a socket's path must be short
        self.root.chmod(0o755)
        for folder in (*FOLDERS, "bin", "here"):
            (self.root / folder).mkdir(parents=True)
        self.sockets = self.root / "var/run/postgresql"
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.executed: list[str] = []
        for command in ("sudo", "apt-get", "adduser", "python3", "systemctl"):
            stand_in = self.root / "bin" / command
            call = f'"{sys.executable}" "{PROJECT}/tests/helpers/stand_ins.py" {command} "$@"'
            stand_in.write_text(f"#!/bin/sh\nexec {call}\n", encoding="utf-8")
            stand_in.chmod(0o755)
        self.environment = {k: v for k, v in os.environ.items() if "MLFLOW_" not in k} | {
            "PATH": os.pathsep.join([str(self.root / "bin"), str(programs), os.environ["PATH"]]),
            "TEAM_ROOT": str(self.root),
            "PGHOST": str(self.sockets),
            "PIP_NO_INDEX": "1",  # a version that is not installed is wrong on the page
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "EMBEDLAB_CACHE": str(self.root / "cache"),
        }
        self.programs = programs

    def postgresql(self, action: str, *options: str) -> None:
        """Run `pg_ctl`, not as root, because PostgreSQL refuses root."""
        other = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        by_whom = other if os.geteuid() == 0 else []
        data = self.root / "var/lib/postgresql"
        if by_whom:
            for folder in (data, self.sockets):
                shutil.chown(folder, "postgres", "postgres")
        command = [*by_whom, self.programs / "pg_ctl", action, "-D", data / "data", *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")

    def start_postgresql(self) -> None:
        options = f"-F -c listen_addresses= -k {self.sockets}"
        log = self.root / "var/lib/postgresql/log"
        self.postgresql("start", "-w", "-o", options, "-l", str(log))

    def execute(self, section: str, number: int) -> str:
        """Execute one command block of the page; returns what it printed."""
        block = BLOCKS[section][number]
        self.executed.append(f"{section} {number}")
        text = re.sub(r"(?<![\w.])/(etc|opt|srv|var)/", rf"{self.root}/\1/", block)
        text = re.sub(r"\b5000\b", str(self.port), text).replace(
            "mlflow run .", f"mlflow run {PROJECT}"
        )
        return self.run(["bash", "-euo", "pipefail", "-c", text])

    def run(self, command: list, **environment: str) -> str:
        done = subprocess.run(
            command,
            cwd=self.root / "here",
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def systemctl(self, action: str) -> None:
        self.run(["systemctl", action, "mlflow"])

    def start_server(self) -> None:
        self.systemctl("start")
        self.run(["curl", "-sf", *RETRY.split(), f"{self.uri}/health"])

    def kill_server(self) -> None:
        os.killpg(int((self.root / "mlflow.pid").read_text(encoding="utf-8")), signal.SIGKILL)

    def entry_point(self, name: str, *arguments: str, **environment: str) -> subprocess.Popen:
        """Start an entry point that uses the server."""
        return self.start(["-m", f"entrypoints.{name}", *arguments], **environment)

    def start(
        self, arguments: list[str], stdin: int = subprocess.DEVNULL, **environment: str
    ) -> subprocess.Popen:
        """Start Python with these arguments, on the server as its store."""
        path = os.pathsep.join([str(PROJECT / "src"), str(PROJECT)])
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=PROJECT,
            env=self.environment
            | {"MLFLOW_TRACKING_URI": self.uri, "PYTHONPATH": path}
            | environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @contextmanager
    def in_this_process(self):
        """Use the server in the block, with MLflow in the state of a user's new process."""
        cache = {"EMBEDLAB_CACHE": self.environment["EMBEDLAB_CACHE"]}
        with (
            patch.dict(os.environ, cache),
            chdir(self.root / "here"),
            use_store(self.uri),
        ):
            os.environ.pop("MLFLOW_RUN_ID", None)
            yield mlflow.MlflowClient()

    def unsent(self) -> list[Path]:
        return sorted((self.root / "cache" / "unsent").glob("*"))


@pytest.fixture(scope="module")
def team():
    """A server that the commands of the page have set up."""
    programs = postgresql_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    pytest.importorskip("psycopg", reason="psycopg is not installed (requirements-dev.txt)")
    team = Team(programs)
    try:
        team.postgresql("init", "-o", "--auth=trust --username=postgres --no-sync")
        team.start_postgresql()
        for number in range(len(BLOCKS["Set it up"])):
            team.execute("Set it up", number)
        yield team
    finally:
        team.systemctl("stop")
        team.postgresql("stop", "-m", "immediate")
        shutil.rmtree(team.root)


@pytest.fixture
def client(team):
    with team.in_this_process() as client:
        yield client


# -- every entry point -------------------------------------------------------------------------


def test_the_page_is_used_as_it_says(team, client):
    printed = team.execute("Use it", 0)
    (run,) = client.search_runs([client.get_experiment_by_name("embedlab").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    assert f"runs:/{run.info.run_id}/matrix" in printed
    stored = team.root / "srv/mlflow/artifacts" / run.info.experiment_id / run.info.run_id
    assert (stored / "artifacts/matrix/likes.npz").is_file()
    assert list((team.root / "here").iterdir()) == []  # the working folder stays empty


@pytest.mark.parametrize(
    ("host", "status"),
    [("mlflow.example.org", 200), ("localhost:5000", 200), ("evil.example.org", 403)],
)
def test_only_the_names_of_the_page_are_answered(team, host, status):
    address = f"{team.uri}/api/2.0/mlflow/experiments/get?experiment_id=0"
    request = urllib.request.Request(address, headers={"Host": host})
    try:
        with urllib.request.urlopen(request) as response:
            answered = response.status
    except urllib.error.HTTPError as error:
        answered = error.code
    assert answered == status


SMALL = "--dataset sample --weights none --resolution 32 --train-limit 60 --val-limit 20 "
SMALL += "--test-limit 20 --epochs 1 --batch-size 16"
ARGUMENTS = {
    "build_matrix": "--ratings sample",
    "fit_embedding": "--matrix runs:/{matrix}/matrix --dim 5 --epochs 5 --reference true "
    "--register true",
    "compare_optimizers": "--ratings sample --dim 5 --epochs 3 --optimizers adam "
    "--learning-rates 1 --titles Alien --k 3",
    "recommend": "--title Alien",
    "extract_features": SMALL,
    "finetune": f"{SMALL} --register true",
    "compare_transfer": "--runs best",
    "report": "",
    "promote": "--model-name movie-embedding --version 1 --reason best",
    "clean_runs": "",
    "evaluate_embedding": "--ratings sample --dims 5 --k 3 --resamples 100",
}


def test_every_entry_point_is_tried():
    assert set(ENTRY_POINTS) <= {*ARGUMENTS, "main"}


@pytest.mark.parametrize("name", [name for name in ARGUMENTS if name in ENTRY_POINTS])
def test_an_entry_point_runs_against_the_server(client, name):
    experiment = client.get_experiment_by_name("embedlab").experiment_id
    (matrix, *_) = client.search_runs([experiment], "tags.entry_point = 'build_matrix'")
    arguments = ARGUMENTS[name].format(matrix=matrix.info.run_id).split()
    importlib.import_module(f"entrypoints.{name}").main(arguments)
    runs = client.search_runs(
        [experiment], f"tags.entry_point = '{name}'", order_by=["start_time ASC"]
    )
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert runs[0].data.metrics["memory/peak_mib"] > 10


@long
def test_main_runs_against_the_server(team, client):
    options = "-e main --env-manager local --experiment-name main -P epochs=20 -P train_limit=100"
    team.run(["mlflow", "run", PROJECT, *options.split()], MLFLOW_TRACKING_URI=team.uri)
    runs = client.search_runs([client.get_experiment_by_name("main").experiment_id])
    (main,) = (run for run in runs if run.data.tags["entry_point"] == "main")
    parents = [run.data.tags.get("mlflow.parentRunId") for run in runs]
    assert parents.count(main.info.run_id) == len(STEPS)
    assert {run.info.status for run in runs} == {"FINISHED"}


# -- many at once ------------------------------------------------------------------------------


SHARED_EPOCHS = 5  # of each process


def fit_with_others(number: int, barrier: Barrier, uri: str) -> None:
    """One of the processes that begin a run at the same moment."""

    def main(_):
        with start_run("fit_embedding", f"run {number}", {"number": number}) as run:
            for epoch in range(SHARED_EPOCHS):
                run.log_epoch(EpochRecord(epoch, {"train/cost": float(number)}, 0.01))
                run.flush()
            run.log_text("x" * 100_000, "text.txt")

    mlflow.set_tracking_uri(uri)
    barrier.wait(60)
    run_main(main)


def eight_at_once(team: Team, uri: str) -> list[mlflow.entities.Run]:
    """The runs of eight processes that began at the same moment, checked for completeness."""
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(8)
    with team.in_this_process():
        args = [(number, barrier, uri) for number in range(8)]
        processes = [fork.Process(target=fit_with_others, args=of_one) for of_one in args]
        for process in processes:
            process.start()
        for process in processes:
            process.join(240)
    assert [process.exitcode for process in processes] == [0] * 8
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("embedlab").experiment_id
    runs = client.search_runs([experiment], "attributes.run_name LIKE 'run %'")
    for run in runs:
        assert (run.info.status, run.data.tags["stop_reason"]) == ("FINISHED", "finished")
        history = client.get_metric_history(run.info.run_id, "train/cost")
        number = float(run.data.params["number"])
        assert [(p.step, p.value) for p in history] == [(e, number) for e in range(SHARED_EPOCHS)]
        assert client.list_artifacts(run.info.run_id)[0].file_size == 100_000
    return runs


@pytest.mark.parametrize("kind", ["server", "sqlite", pytest.param("postgresql", marks=long)])
def test_eight_runs_begin_and_log_at_once(team, kind):
    """They use the server, or are the first runs on an empty database."""
    uri = {
        "server": team.uri,
        "sqlite": f"sqlite:///{team.root}/here/{kind}/mlflow.db",
        "postgresql": f"postgresql://mlflow@/empty?host={team.sockets}",
    }[kind]
    if kind == "postgresql":
        team.run(["createdb", "--username=postgres", "--owner=mlflow", "empty"])
    runs = eight_at_once(team, uri)
    assert sorted(int(run.data.params["number"]) for run in runs) == list(range(8))


def test_a_password_in_the_address_is_neither_printed_nor_kept(team, client, monkeypatch, capfd):
    """The password is one that a proxy in front of the server would ask for."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "password")
    mlflow.set_tracking_uri(team.uri.replace("//", "//me:secret@"))
    build_matrix.main(["--ratings", "sample"])
    said = capfd.readouterr()
    (run,) = of_experiment(client, "password")
    assert "secret" not in f"{said}{run.to_dictionary()}{run.inputs.to_dictionary()}"


@pytest.fixture
def own_database(team):
    """The address of an empty database, used without a server."""
    team.run(["createdb", "--username=postgres", "--owner=mlflow", "own"])
    uri = f"postgresql://mlflow@/own?host={team.sockets}"
    with team.in_this_process():
        mlflow.set_tracking_uri(uri)
        yield uri
    team.run(["dropdb", "--username=postgres", "--force", "own"])


def tables(team) -> str:
    return team.run(["psql", "--username=mlflow", "-Atc", r"\dt", "own"])


def test_a_database_of_another_program_is_named_and_left_as_it_is(team, own_database):
    team.run(["psql", "--username=mlflow", "-c", "CREATE TABLE customers (name TEXT)", "own"])
    before = tables(team)
    with pytest.raises(
        TrackingError, match="another program's, not MLflow's: it has a table 'customers'"
    ):
        initialise_store()
    assert tables(team) == before


def test_a_lock_that_another_process_holds_is_named_and_waited_for(
    team, own_database, monkeypatch, caplog
):
    monkeypatch.setattr(database, "LOCK_NOTICE_SECONDS", 0.1)
    monkeypatch.setenv("EMBEDLAB_WAIT_FOR_SERVER", "0.5")
    engine = sqlalchemy.create_engine(own_database, poolclass=sqlalchemy.NullPool)
    held = f"another process holds its lock {database.LOCK_NUMBER} (advisory)"
    with engine.connect() as other:
        other.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({database.LOCK_NUMBER})"))
        with pytest.raises(StoreUnavailableError, match=re.escape(held)):
            initialise_store()
    assert held in caplog.messages[0]
    assert "experiments" not in tables(team)
    initialise_store()
    assert "experiments" in tables(team)


# -- an outage ---------------------------------------------------------------------------------

TUNE_EPOCHS = 6


def of_experiment(client, experiment: str) -> list[mlflow.entities.Run]:
    existing = client.get_experiment_by_name(experiment)
    order = ["start_time ASC"]
    return client.search_runs([existing.experiment_id], order_by=order) if existing else []


def wait_for_metric(client, experiment: str, metric: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        runs = of_experiment(client, experiment)
        if runs and metric in runs[0].data.metrics:
            return
        time.sleep(0.2)
    pytest.fail(f"no {metric} in {experiment}")


def steps(client, run: mlflow.entities.Run, metric: str) -> list[int]:
    return [point.step for point in client.get_metric_history(run.info.run_id, metric)]


# A fit that logs an epoch for each line that it reads, and a model at its end.
A_FIT = """
import sys
import numpy as np
import pandas as pd
from embedlab.cli.parser import run_main
from embedlab.progress import EpochRecord
from embedlab.tracking.offline import client
from embedlab.tracking.lifecycle import start_run
from embedlab.workflows.movies.model import log_movie_model

client.FIRST_PROBE = 0.5
MOVIES = {"movie_id": [1], "title": ["A (1999)"], "genres": ["Drama"], "likes": [1]}

def main(argv):
    with start_run("fit_embedding", "fit", {}) as run:
        for epoch, _ in enumerate(sys.stdin):
            run.log_epoch(EpochRecord(epoch, {"train/cost": 1 / (1 + epoch)}, 0.01))
            run.flush()
            print(epoch, flush=True)
        log_movie_model(run, np.ones((1, 2), np.float32), pd.DataFrame(MOVIES), {})

run_main(main)
"""


def test_a_fit_goes_on_while_the_server_is_stopped_restored_and_upgraded(team, client):
    """First the database is unavailable, then the server: its tables and files are lost, restored
    from a back-up, and upgraded before it starts again."""
    fitting = team.start(["-c", A_FIT], stdin=subprocess.PIPE, MLFLOW_EXPERIMENT_NAME="fit")
    epochs = []

    def train_until(is_so: Callable[[], object]) -> None:
        while not epochs or not is_so():
            fitting.stdin.write("\n")
            fitting.stdin.flush()
            epochs.append(int(fitting.stdout.readline()))

    train_until(lambda: len(epochs) == 3)
    team.postgresql("stop", "-m", "fast")
    train_until(team.unsent)
    team.start_postgresql()
    train_until(lambda: not team.unsent())

    before = {run.info.run_id: run.to_dictionary() for run in of_experiment(client, "embedlab")}
    team.execute("Back it up", 0)
    client.delete_run(next(iter(before)))
    shutil.rmtree(team.root / "srv/mlflow/artifacts")
    team.kill_server()
    train_until(team.unsent)
    team.execute("Back it up", 1)
    team.execute("Upgrade it", 0)
    team.start_server()  # waits for the server, which runs already

    _, said = fitting.communicate(timeout=120)
    assert fitting.returncode == 0, said
    assert "Traceback" not in said
    assert (
        re.findall("MLflow at [^ ]+ is (unavailable|available)", said)
        == [
            "unavailable",
            "available",
        ]
        * 2
    )
    assert (
        "is unavailable (it answers 503). The run goes on" in said
    )  # its answer without a database
    (run,) = of_experiment(client, "fit")
    assert (run.info.status, run.data.tags["stop_reason"]) == ("FINISHED", "finished")
    assert steps(client, run, "train/cost") == epochs
    assert steps(client, run, "time/epoch_seconds") == epochs
    assert len(run.outputs.model_outputs) == 1
    assert team.unsent() == []
    after = {run.info.run_id: run.to_dictionary() for run in of_experiment(client, "embedlab")}
    assert after == before
    for run_id in before:
        assert mlflow.artifacts.list_artifacts(run_id=run_id) is not None


@long
def test_a_training_whose_server_does_not_come_back_is_sent_and_resumed_later(team, client):
    options = SMALL.replace("--epochs 1", f"--epochs {TUNE_EPOCHS}").split()
    of_tuning = {"MLFLOW_EXPERIMENT_NAME": "tune", "EMBEDLAB_WAIT_FOR_SERVER": "1"}
    tuning = team.entry_point("finetune", *options, **of_tuning)
    wait_for_metric(client, "tune", "val/accuracy")
    team.kill_server()
    printed, said = tuning.communicate(timeout=120)
    assert tuning.returncode == 1
    assert "Traceback" not in said
    assert re.search(rf"^ +{TUNE_EPOCHS} ", printed, re.MULTILINE)
    (kept,) = team.unsent()
    assert said.splitlines()[-1] == (
        f"embedlab: MLflow at {team.uri} was unavailable for 1 s (connection refused); what this "
        f"run could not log is kept in {kept}, and the next entry point that starts on this "
        "machine with this store sends it."
    )
    team.start_server()
    (stopped,) = of_experiment(client, "tune")
    assert (stopped.info.run_id, stopped.info.status) == (kept.name, "RUNNING")  # not sent yet

    resumed = team.entry_point("finetune", "--resume", kept.name, MLFLOW_EXPERIMENT_NAME="tune")
    _, said = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, said
    assert f"Sent what run {kept.name} could not log: " in said
    stopped, run = of_experiment(client, "tune")
    assert (stopped.info.status, stopped.data.tags["stop_reason"]) == ("FAILED", "error")
    assert run.info.status == "FINISHED"
    took = []
    for one in (stopped, run):
        assert steps(client, one, "val/accuracy") == list(range(1, TUNE_EPOCHS + 1))
        history = client.get_metric_history(one.info.run_id, "time/epoch_seconds")
        took.append([point.value for point in history])
    assert took[0] == took[1]  # nothing was trained again
    images = Counter(
        re.search(r"step\+(\d+)", item.path)[1]
        for item in client.list_artifacts(stopped.info.run_id, "images")
    )
    assert images == {str(epoch): 2 for epoch in range(1, TUNE_EPOCHS + 1)}  # with the thumbnail
    assert team.unsent() == []


# -- the rest of the page ----------------------------------------------------------------------


def test_every_command_of_the_page_was_executed_in_its_order(team):
    assert team.executed == [
        f"{section} {number}" for section, blocks in BLOCKS.items() for number in range(len(blocks))
    ]
