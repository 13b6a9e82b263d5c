"""The tracking store before a run begins: its owner, its locks, its path."""

import fcntl
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import chdir, closing, contextmanager
from pathlib import Path

import mlflow
import pytest
import sqlalchemy
from conftest import PROJECT, empty_store, use_store
from mlflow.exceptions import ExecutionException
from mlflow.store.tracking.dbmodels.initial_models import Base as FirstTables

from embedlab.cli.parser import EXIT_INTERRUPTED, run_main
from embedlab.errors import StoreUnavailableError, TrackingError
from embedlab.tracking import database as database_module
from embedlab.tracking.database import initialise_store
from embedlab.tracking.lifecycle import start_run
from embedlab.tracking.offline import retry as outage
from entrypoints import recommend

pytestmark = pytest.mark.slow


@pytest.fixture
def database(tmp_path) -> Iterator[Path]:
    """The path of MLflow's store in the test, where no file exists yet."""
    file = tmp_path / "store" / "runs.db"
    file.parent.mkdir()
    with use_store(f"sqlite:///{file}"):
        yield file


def execute(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def make_first_tables(file: Path) -> None:
    """Make the tables of MLflow's first version, which every new store begins with."""
    engine = sqlalchemy.create_engine(f"sqlite:///{file}")
    FirstTables.metadata.create_all(engine)
    engine.dispose()


# -- the owner of a database ---------------------------------------------------------------------

CUSTOMERS = ("CREATE TABLE customers (name TEXT)", "INSERT INTO customers VALUES ('Ann'), ('Bob')")
ALEMBIC = (
    "CREATE TABLE alembic_version (version_num TEXT)",
    "INSERT INTO alembic_version VALUES ('9f8e7d6c5b4a')",
)


@pytest.mark.parametrize(
    "statements",
    [(*CUSTOMERS, *ALEMBIC), CUSTOMERS, (*CUSTOMERS, "CREATE TABLE runs (id INTEGER)")],
    ids=["with alembic", "without", "with a table of a name of MLflow's"],
)
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_database_of_another_program_is_named_and_left_as_it_is(database, statements, journal):
    execute(database, f"PRAGMA journal_mode = {journal}")
    execute(database, *statements)
    before = database.read_bytes()
    with pytest.raises(
        TrackingError, match="another program's, not MLflow's: it has a table 'customers'"
    ) as said:
        initialise_store()
    assert "delete" not in str(said.value)
    assert database.read_bytes() == before
    left = {file.name for file in database.parent.iterdir()}
    assert left - {"runs.db-shm", "runs.db-wal"} == {"runs.db"}


def test_a_database_that_an_earlier_version_put_tables_into_is_not_to_be_deleted(database):
    execute(database, *CUSTOMERS, *ALEMBIC)
    make_first_tables(database)
    before = database.read_bytes()
    with pytest.raises(TrackingError, match="MLflow cannot open its store") as said:
        initialise_store()
    assert "delete" not in str(said.value)
    assert database.read_bytes() == before


@pytest.mark.parametrize("table", ["runs", "registered_models"])
def test_a_store_that_holds_anything_is_not_to_be_deleted(database, table):
    """Like a half-made store, it has no experiment and an unknown version."""
    empty_store(database)
    row = {"runs": "(run_uuid) VALUES ('a')", "registered_models": "(name) VALUES ('a')"}[table]
    execute(
        database,
        "DELETE FROM experiments",
        "UPDATE alembic_version SET version_num = 'unknown'",
        f"INSERT INTO {table} {row}",
    )
    with pytest.raises(TrackingError, match="MLflow cannot open its store") as said:
        initialise_store()
    assert "delete" not in str(said.value)


def test_a_store_of_mlflows_first_version_is_opened_and_keeps_its_runs(database):
    make_first_tables(database)
    execute(
        database,
        "INSERT INTO experiments VALUES (0, 'Default', '/nowhere', 'active')",
        "INSERT INTO runs (run_uuid, name, experiment_id, lifecycle_stage, status, source_type,"
        " user_id, start_time, artifact_uri) VALUES ('0123456789abcdef0123456789abcdef', 'old', 0,"
        " 'active', 'FINISHED', 'LOCAL', 'Ann', 1, '/nowhere')",
    )
    initialise_store()
    assert mlflow.get_run("0123456789abcdef" * 2).info.status == "FINISHED"


def test_a_store_with_another_programs_table_is_opened(database):
    """MLflow's own table of users, for example, may be in the same database."""
    empty_store(database)
    execute(database, *CUSTOMERS)
    initialise_store()
    assert [item.name for item in mlflow.search_experiments()] == ["Default"]


def test_an_empty_file_becomes_a_store(database):
    database.touch()
    initialise_store()
    assert [item.name for item in mlflow.search_experiments()] == ["Default"]


def test_a_store_whose_last_writer_was_killed_is_opened(database):
    """Its journal is then beside it, and a connection that only reads cannot roll it back."""
    empty_store(database)
    killed = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('PRAGMA cache_size = 1'); c.execute('BEGIN')\n"
        "c.execute('CREATE TABLE half (x)')\n"
        "c.execute('WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 9999)'\n"
        "          ' INSERT INTO half SELECT randomblob(999) FROM n')\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", killed, database], check=False)
    assert Path(f"{database}-journal").stat().st_size
    initialise_store()
    assert [item.name for item in mlflow.search_experiments()] == ["Default"]


def test_a_first_start_makes_the_store_beside_its_place_and_removes_what_a_kill_left(
    database, monkeypatch
):
    for left_by_a_kill in (".new", ".new-journal"):
        database.with_name(f"{database.name}{left_by_a_kill}").write_text("half")
    replace, was_there = os.replace, []

    def appear(new, path):  # a kill before this leaves no store
        was_there.append(database.exists())
        replace(new, path)

    monkeypatch.setattr(database_module.os, "replace", appear)
    initialise_store()
    assert was_there == [False]
    assert [item.name for item in mlflow.search_experiments()] == ["Default"]
    left = {path.name for path in database.parent.iterdir()}
    assert left <= {"runs.db", "runs.db.lock"}


def test_a_store_that_mlflow_was_killed_in_the_middle_of_making_is_named(database):
    """A killed first `mlflow run` leaves tables of an older version and no experiment."""
    empty_store(database)
    execute(
        database,
        "DELETE FROM experiments",
        "UPDATE alembic_version SET version_num = 'older'",
    )
    uri = mlflow.get_tracking_uri()
    sentence = f"the store {uri} was left half made by a first `mlflow run` that was killed.*delete"
    with pytest.raises(TrackingError, match=sentence):
        initialise_store()


# -- locks ---------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch):
    """Make a start report a lock soon, retry soon, and give up soon."""
    monkeypatch.setattr(database_module, "LOCK_NOTICE_SECONDS", 0.1)
    monkeypatch.setattr(outage, "FIRST_PAUSE", 0.01)
    monkeypatch.setenv("EMBEDLAB_WAIT_FOR_SERVER", "0.5")


@contextmanager
def held(lock: Path) -> Iterator[None]:
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize("is_there", [True, False])
def test_a_lock_that_another_process_holds_is_named_and_waited_for_up_to_a_limit(
    database, impatient, caplog, is_there
):
    if is_there:
        empty_store(database)
    holds = f"another process holds its lock {database}.lock and has to end first"
    with held(Path(f"{database}.lock")), pytest.raises(StoreUnavailableError) as said:
        initialise_store()
    assert str(said.value) == f"MLflow at sqlite:///{database} was unavailable for 0.5 s ({holds})"
    assert caplog.messages == [
        f"Waiting for MLflow at sqlite:///{database}: {holds}; 0 of at most 0.5 s "
        "(EMBEDLAB_WAIT_FOR_SERVER)."
    ]
    assert database.exists() == is_there


def test_a_start_goes_on_when_the_lock_is_free(database, impatient, monkeypatch):
    empty_store(database)
    monkeypatch.setenv("EMBEDLAB_WAIT_FOR_SERVER", "30")
    with held(Path(f"{database}.lock")):
        starting = threading.Thread(target=initialise_store)
        starting.start()
        starting.join(0.5)
        assert starting.is_alive()
    starting.join(30)
    assert not starting.is_alive()


def test_a_start_that_waits_for_a_lock_is_stopped_by_ctrl_c(database):
    empty_store(database)
    waiting = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from embedlab.cli.parser import run_main\n"
        "from embedlab.tracking import database, lifecycle\n"
        "database.LOCK_NOTICE_SECONDS = 0.0\n"
        "def main(argv):\n"
        "    with lifecycle.start_run('recommend', 'waits', {}): pass\n"
        "run_main(main)"
    )
    with held(Path(f"{database}.lock")):
        process = subprocess.Popen(
            [sys.executable, "-c", waiting],
            env=os.environ
            | {"PYTHONPATH": str(PROJECT / "src"), "MLFLOW_TRACKING_URI": f"sqlite:///{database}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert "Waiting for MLflow" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=10)
        finally:
            process.kill()
    assert process.returncode == EXIT_INTERRUPTED
    assert said == "embedlab: stopped by Ctrl-C; the run keeps what it had logged.\n"


def test_a_database_that_another_process_has_locked_is_named(database, monkeypatch):
    empty_store(database)
    mlflow.set_tracking_uri(f"sqlite:///{database}?timeout=0.1")  # the default is 5 s
    monkeypatch.setenv("EMBEDLAB_WAIT_FOR_SERVER", "0.2")
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailableError, match=r"for 0.2 s \(its database is locked\)$"):
            initialise_store()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="there is no /proc, where nobody may write")
def test_a_folder_that_cannot_be_written_is_a_sentence_at_once():
    started = time.monotonic()
    with (
        use_store("sqlite:////proc/runs.db"),
        pytest.raises(TrackingError, match=r"cannot open its store .*/proc/runs\.db\.lock"),
    ):
        initialise_store()
    assert time.monotonic() - started < 3


def test_a_lock_that_cannot_be_made_is_a_sentence_at_once(database):
    empty_store(database)
    Path(f"{database}.lock").mkdir()
    with pytest.raises(TrackingError, match=r"cannot open its store .*runs\.db\.lock"):
        initialise_store()


# -- relative paths ------------------------------------------------------------------------------

RUN_ID = "0123456789abcdef" * 2


@pytest.fixture
def relative(tmp_path, monkeypatch) -> Iterator[Path]:
    """A relative address, as an entry point under `mlflow run` sees it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_RUN_ID", RUN_ID)
    with use_store("sqlite:///sub/rel.db"):
        yield tmp_path / "sub/rel.db"


def test_a_relative_address_of_another_folder_is_refused_and_makes_no_store(relative):
    sentence = re.escape(
        "MLFLOW_TRACKING_URI=sqlite:///sub/rel.db is relative to the folder in which `mlflow run` "
        "was called and made the run, but the entry point looks for it in the project's folder: "
        "give an absolute path, such as sqlite:///$PWD/sub/rel.db."
    )
    with pytest.raises(TrackingError, match=sentence), start_run("recommend", "recommend", {}):
        pytest.fail("the run has begun")
    assert list(relative.parents[1].iterdir()) == []
    relative.parent.mkdir()  # a stray store, as earlier versions left
    empty_store(relative)
    with pytest.raises(TrackingError, match=sentence), start_run("recommend", "recommend", {}):
        pytest.fail("the run has begun")
    assert list(relative.parent.iterdir()) == [relative]


def test_a_refused_parameter_makes_no_store_at_a_relative_address(relative):
    with pytest.raises(SystemExit):
        run_main(lambda _: recommend.main(["--k", "0"]))
    assert list(relative.parents[1].iterdir()) == []


def test_a_relative_address_is_accepted_where_the_store_has_the_run(relative, monkeypatch):
    relative.parent.mkdir()
    empty_store(relative)
    made = mlflow.MlflowClient().create_run("0", tags={"made": "here"})
    mlflow.set_experiment(experiment_id="0")
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    with start_run("recommend", "recommend", {}) as run:
        assert run.id == made.info.run_id


def test_mlflow_run_refuses_a_relative_address_from_another_folder(tmp_path, capfd):
    name = f"{tmp_path.name}.db"
    empty_store(tmp_path / name)
    with (
        chdir(tmp_path),
        use_store(f"sqlite:///{name}"),
        pytest.raises(ExecutionException),
    ):
        mlflow.projects.run(str(PROJECT), "clean_runs", env_manager="local")
    assert f"give an absolute path, such as sqlite:///$PWD/{name}." in capfd.readouterr().err
    assert list(PROJECT.glob(f"{name}*")) == []
