"""The tracking store: where runs are kept, and what is wrong with it, in a sentence.

The store is MLflow's own choice: MLFLOW_TRACKING_URI, or `mlflow.db` and `mlruns/` in the folder
in which `mlflow run` was called.
"""

import errno
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import mlflow
import requests
import sqlalchemy
from filelock import FileLock, Timeout
from mlflow.environment_variables import MLFLOW_RUN_ID
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.dbmodels.initial_models import Base as FirstTables
from mlflow.tracking import MlflowClient

from embedlab.errors import EmbedlabError, TrackingError
from embedlab.tracking.offline.retry import (
    outage_reason,
    retry_until_available,
    seconds_to_wait,
    short_requests,
)

UI_ADDRESS = "http://127.0.0.1:5000"
LOCK_NUMBER = 1_162_692_676  # of PostgreSQL's advisory locks; any that nobody else takes
# Of a disk that is full, or may not be written.
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)
SECONDS_TO_THE_LINE = 5.0  # that says which lock is waited for
SECONDS_BETWEEN_ATTEMPTS = 0.1
GIVE_ANOTHER = "set MLFLOW_TRACKING_URI to another, such as sqlite:////absolute/path/mlflow.db."
# After what is kept: of a server up to the last @ before a slash, of a database, where a password
# may hold slashes, up to the last @ of all, and among the options of a database.
PASSWORD = re.compile(
    r"(https?://[^\s/:@]*:)[^\s/]*(?=@)"
    r"|((?:postgresql|mysql|mssql)[^\s:]*://[^\s/:@]*:)\S*(?=@)"
    r"|([?&](?:\w*password|odbc_connect)=)[^\s&]*"
)
CLASSIC = "workflowType=machine_learning"  # without it the UI opens on the traces of chat models


def check_store(experiment_id: str) -> None:
    """Raise TrackingError if artifacts of this experiment could not be stored.

    An experiment that `mlflow ui` or `mlflow server` made keeps its artifacts behind the server
    (`mlflow-artifacts:`), out of reach for a run that writes to the database by itself.
    """
    location = mlflow.get_experiment(experiment_id).artifact_location
    uri = mlflow.get_tracking_uri()
    if location.startswith("mlflow-artifacts:") and not uri.startswith(("http:", "https:")):
        raise TrackingError(
            "this experiment was made by `mlflow ui` or `mlflow server` and keeps its artifacts "
            "behind that server, but this run writes to the database directly: add "
            "--experiment-name embedlab to `mlflow run`, or set MLFLOW_TRACKING_URI to the "
            "server's http address."
        )


def initialise_store() -> None:
    """Create the store's tables and its Default experiment, with artifacts in local folders, where
    they are not there yet.

    Raises TrackingError where the store cannot be opened, and where it is another program's
    database, which is left as it is; ServerAwayError where another process holds it for too long.
    """
    uri, tables = mlflow.get_tracking_uri(), set[str]()
    try:
        with short_requests(), ExitStack() as alone:
            if uri.startswith(("sqlite:", "postgresql")):
                url = sqlalchemy.make_url(uri)
                tables = retry_until_available(store_address(), lambda: _tables(url))
                _check_owner(tables)
                _check_has_run(url, tables)
                alone.enter_context(_store_lock(url))
            MlflowClient().search_experiments(max_results=1)
    except EmbedlabError:
        raise
    except Exception as error:  # MLflow's, or the database's, its driver's, the file system's own
        reason = outage_reason(error) or f"{type(error).__name__}: {first_line(error)}"
        if foreign := _foreign(tables):
            reason += f"; its table '{foreign[0]}' is not of MLflow {mlflow.__version__}"
        elif tables and uri.startswith("sqlite:") and _is_empty(url, tables):
            raise TrackingError(
                f"the store {store_address()} was left half made by a first `mlflow run` that was "
                "killed, and never held a run: delete that file and start again."
            ) from error
        raise TrackingError(
            f"MLflow cannot open its store {store_address()} ({reason}): {GIVE_ANOTHER}"
        ) from error


@contextmanager
def _reading(url: sqlalchemy.URL, mode: str = "ro") -> Iterator[sqlalchemy.Connection]:
    """A connection that only reads: a file is neither made nor changed."""
    if url.get_backend_name() == "sqlite":
        file = Path(url.database).absolute().as_uri()
        url = url.set(database=file, query={"uri": "true", "mode": mode})
    with sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool).connect() as connection:
        yield connection


def _tables(url: sqlalchemy.URL, mode: str = "ro") -> set[str]:
    """Names of the database's tables, without those in which Alembic works."""
    if url.get_backend_name() == "sqlite" and not os.path.exists(url.database):
        return set()
    try:
        with _reading(url, mode) as connection:
            names = sqlalchemy.inspect(connection).get_table_names()
    except sqlalchemy.exc.OperationalError as error:
        # SQLite first has to undo what a killed writer left half done, as for any other reader.
        code = getattr(error.orig, "sqlite_errorcode", None)
        if mode != "ro" or code != sqlite3.SQLITE_READONLY_ROLLBACK:
            raise
        return _tables(url, "rw")
    return {name for name in names if not name.startswith(("alembic_", "_alembic_"))}


def _foreign(tables: set[str]) -> list[str]:
    """Those that are not of this version of MLflow, in their order."""
    from mlflow.store.db.utils import Base  # this module loads them all, which takes a while

    return sorted(tables - set(Base.metadata.tables))


def _check_owner(tables: set[str]) -> None:
    """Raise TrackingError for another program's database: MLflow would add its tables to it."""
    foreign = _foreign(tables)
    if foreign and not tables >= set(FirstTables.metadata.tables):
        raise TrackingError(
            f"the database {store_address()} is not MLflow's but of another program: it has a "
            f"table '{foreign[0]}'. It was left as it is: {GIVE_ANOTHER}"
        )


def _check_has_run(url: sqlalchemy.URL, tables: set[str]) -> None:
    """Raise TrackingError if a relative path names another file here: `mlflow run` makes the run in
    the caller's folder and starts the entry point in the project's."""
    run_id = MLFLOW_RUN_ID.get()
    if not run_id or url.get_backend_name() != "sqlite" or os.path.isabs(url.database):
        return
    if "runs" in tables:
        with _reading(url) as connection:
            query = sqlalchemy.text("SELECT 1 FROM runs WHERE run_uuid = :run_id")
            if connection.scalar(query, {"run_id": run_id}):
                return
    raise TrackingError(
        f"MLFLOW_TRACKING_URI={store_address()} is relative to the folder in which `mlflow run` "
        "was called and made the run, but the entry point looks for it in the project's folder: "
        f"give an absolute path, such as sqlite:///$PWD/{url.database}."
    )


def _is_empty(url: sqlalchemy.URL, tables: set[str]) -> bool:
    """Whether no table has a row, but for what MLflow's migrations put there."""
    try:
        with _reading(url) as connection:
            return not any(
                connection.scalar(sqlalchemy.select(sqlalchemy.exists().select_from(table)))
                for table in map(sqlalchemy.table, tables - {"workspaces"})
            )
    except sqlalchemy.exc.DBAPIError:  # locked, or damaged
        return False


@contextmanager
def _store_lock(url: sqlalchemy.URL) -> Iterator[None]:
    """Let no other process in here with the same database: MLflow makes its tables without a lock,
    and of several first processes most would die. A server has made them before it answers."""
    if url.get_backend_name() == "postgresql":
        with _reading(url) as connection:
            retry_until_available(store_address(), lambda: _take_advisory_lock(connection))
            yield  # the lock goes with the connection
        return
    database = Path(url.database)
    database.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{database}.lock")
    Path(lock.lock_file).touch()  # where it cannot be made, FileLock may wait for that
    with retry_until_available(
        store_address(), lambda: lock.acquire(timeout=_seconds_for_a_lock())
    ):
        if not database.exists():
            _make_sqlite(url)
        yield


def _take_advisory_lock(connection: sqlalchemy.Connection) -> None:
    """Raises Timeout as FileLock does."""
    end = time.monotonic() + _seconds_for_a_lock()
    query = sqlalchemy.text(f"SELECT pg_try_advisory_lock({LOCK_NUMBER})")
    while not connection.scalar(query):
        if time.monotonic() >= end:
            raise Timeout(f"{LOCK_NUMBER} (advisory)")
        time.sleep(SECONDS_BETWEEN_ATTEMPTS)


def _seconds_for_a_lock() -> float:
    """Of one attempt, after which a line says what is waited for."""
    return min(SECONDS_TO_THE_LINE, seconds_to_wait())


def _make_sqlite(url: sqlalchemy.URL) -> None:
    """The file appears when all tables are in it: MLflow takes seconds to make them, and a database
    whose maker was killed meanwhile could never be opened again."""
    new = f"{url.database}.new"
    for left_by_a_kill in (Path(new), Path(f"{new}-journal")):
        left_by_a_kill.unlink(missing_ok=True)
    MlflowClient(str(url.set(database=new))).search_experiments(max_results=1)
    os.replace(new, url.database)


@contextmanager
def explain_store_errors() -> Iterator[None]:
    """Turn what MLflow raises inside into a TrackingError of one sentence."""
    try:
        yield
    except (MlflowException, requests.RequestException) as error:
        raise TrackingError(f"MLflow at {store_address()} says: {first_line(error)}") from error
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        place = f" '{error.filename}'" if error.filename else ""
        raise TrackingError(
            f"a file{place} of the run cannot be written ({error.strerror}): make room, or set "
            f"MLFLOW_TRACKING_URI, now {store_address()}, to a store that can be written."
        ) from error


def store_address() -> str:
    """The tracking URI as it may be shown and stored: without the password in it, if any."""
    return without_password(mlflow.get_tracking_uri())


def without_password(text: str) -> str:
    """The text with `***` for the password of each address of a server or database in it."""
    return PASSWORD.sub(lambda found: f"{found[found.lastindex or 0]}***", text)


def first_line(error: Exception) -> str:
    """What an error says, in one line without passwords: SQLAlchemy may put another before it,
    `(raised as a result of …)`, and MLflow ends the first with a colon where the reason comes
    after it."""
    lines = without_password(str(error)).strip().splitlines() or [type(error).__name__]
    if len(lines) > 1 and lines[0].startswith("(raised as a result"):
        del lines[0]
    return " ".join(lines) if lines[0].endswith(":") else lines[0]


def fetch_artifacts(uri: str) -> Path:
    """Local folder of artifacts given as `runs:/<run id>/<path>`, another URI, or a local path.

    Raises TrackingError where there are none.
    """
    local = Path(uri).expanduser()
    if local.exists():
        return local
    if "://" not in uri and not uri.startswith(("runs:/", "models:/", "mlflow-artifacts:/")):
        raise TrackingError(
            f"matrix: expected runs:/<run id>/matrix or a folder, but there is no '{uri}' in "
            f"{Path.cwd()}: give an absolute path, or the line that build_matrix printed."
        )
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"matrix: '{uri}' cannot be read from {store_address()} ({first_line(error)}): "
            "give runs:/<run id>/matrix as build_matrix printed it, with the same tracking store."
        ) from None


def how_to_open(experiment_id: str, run_id: str, *pages: str) -> str:
    """The command that opens the MLflow UI on this store, the address of the run in it, and those
    of other pages, `#/…`."""
    uri, shown = mlflow.get_tracking_uri(), store_address()
    pages = (f"#/experiments/{experiment_id}/runs/{run_id}?{CLASSIC}", *pages)
    if uri.startswith(("http:", "https:")):
        server = re.sub("://[^/@]*@", "://", uri).rstrip("/")  # a browser asks who it is
        return "\n".join(f"Open   {server}/{page}" for page in pages)
    uri = uri if uri == shown else '"$MLFLOW_TRACKING_URI"'
    start = f"Start  mlflow ui --backend-store-uri {uri}"
    return "\n".join([start, *(f"Open   {UI_ADDRESS}/{page}" for page in pages)])
