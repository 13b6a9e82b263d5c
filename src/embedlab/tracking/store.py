"""The tracking store: its initialisation under a lock, its address, and its errors in a sentence.

MLflow chooses the store: MLFLOW_TRACKING_URI, or `mlflow.db` and `mlruns/` in the folder in which
`mlflow run` was called.
"""

import errno
import logging
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import mlflow
import requests
import sqlalchemy
from filelock import FileLock, Timeout
from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR, MLFLOW_RUN_ID
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from embedlab.errors import EmbedlabError, TrackingError
from embedlab.tracking.offline.retry import outage_reason, retry_until_available, short_requests

UI_ADDRESS = "http://127.0.0.1:5000"
LOCK_NUMBER = 1_162_692_676  # of PostgreSQL's advisory locks; any that nobody else takes
# The disk is full, or may not be written.
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)
LOCK_NOTICE_SECONDS = 5.0  # before a line names the lock that is waited for
MLFLOW_TABLES = {"experiments", "metrics", "params", "runs", "tags"}  # since its first version
USE_ANOTHER_STORE = (
    "set MLFLOW_TRACKING_URI to another, such as sqlite:////absolute/path/mlflow.db."
)
# The first group is shown, the rest is the password: for a server up to the last @ before a slash,
# for a database, whose password may hold slashes, up to the last @, and in its options.
PASSWORD = re.compile(
    r"(https?://[^\s/:@]*:)[^\s/]*(?=@)"
    r"|((?:postgresql|mysql|mssql)[^\s:]*://[^\s/:@]*:)\S*(?=@)"
    r"|([?&](?:\w*password|odbc_connect)=)[^\s&]*"
)
# MLflow logs each table, thread and batch of its own work, and every request that it repeats.
MLFLOW_LOG_LEVELS = {
    "mlflow.tracking.fluent": logging.WARNING,
    "mlflow.pyfunc": logging.WARNING,
    "alembic": logging.WARNING,
    "mlflow.store.db": logging.CRITICAL,
    "mlflow.system_metrics": logging.CRITICAL,
    "urllib3.connectionpool": logging.CRITICAL,
}
CLASSIC_UI = "workflowType=machine_learning"  # without it the UI opens on the traces of chat models


def check_store(experiment_id: str) -> None:
    """Raise TrackingError if artifacts of this experiment could not be stored.

    An experiment that `mlflow ui` or `mlflow server` made keeps its artifacts behind the server
    (`mlflow-artifacts:`), out of reach for a run that writes to the database directly.
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
    """Create the store's tables and its Default experiment if they are missing.

    An experiment that this creates in a database keeps its artifacts in local folders.

    Raises TrackingError if the store cannot be opened, or is another program's database, which is
    left unchanged; StoreUnavailableError if another process holds it for too long.
    """
    for name, level in MLFLOW_LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    if not MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.is_set():  # bars of files among the work's own
        MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)
    uri = mlflow.get_tracking_uri()
    database = _Database(uri) if uri.startswith(("sqlite:", "postgresql")) else None
    try:
        with short_requests(), database.lock() if database else nullcontext():
            MlflowClient().search_experiments(max_results=1)
    except EmbedlabError:
        raise
    except Exception as error:  # MLflow's, or the database's, its driver's, the file system's own
        reason = outage_reason(error) or f"{type(error).__name__}: {first_line(error)}"
        if database and database.is_half_made():
            raise TrackingError(
                f"the store {store_address()} was left half made by a first `mlflow run` that was "
                "killed, and never held a run: delete that file and start again."
            ) from error
        raise TrackingError(
            f"MLflow cannot open its store {store_address()} ({reason}): {USE_ANOTHER_STORE}"
        ) from error


class _Database:
    """The SQLite file or PostgreSQL database that is the store, without a server in front of it.

    path    of the SQLite file; None for PostgreSQL.
    tables  names, without Alembic's own; empty until `lock` has read them.
    """

    def __init__(self, uri: str):
        self.url = sqlalchemy.make_url(uri)
        is_sqlite = self.url.get_backend_name() == "sqlite"
        self.path = Path(self.url.database or "") if is_sqlite else None
        self.tables: set[str] = set()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Exclude every other process from this database.

        MLflow makes its tables without a lock, so that most of several first processes would die. A
        server needs no lock: it has made them before it answers.

        Raises TrackingError, before locking, if the database is another program's, or is not the
        one that `mlflow run` has used.
        """
        store = store_address()
        self.tables = retry_until_available(store, self._read_tables)
        self._check_owner()
        self._check_has_run()
        if self.path is None:
            with self._connect() as connection:
                take = partial(_take_advisory_lock, connection)
                retry_until_available(store, take, LOCK_NOTICE_SECONDS)
                yield  # the lock goes with the connection
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{self.path}.lock", blocking=False)
        Path(lock.lock_file).touch()  # FileLock may wait for a file that cannot be made
        with retry_until_available(store, lock.acquire, LOCK_NOTICE_SECONDS):
            if not self.path.exists():
                self._make_sqlite(self.path)
            yield

    @contextmanager
    def _connect(self) -> Iterator[sqlalchemy.Connection]:
        engine = sqlalchemy.create_engine(self.url, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            yield connection

    def _read_tables(self) -> set[str]:
        if self.path is not None and not self.path.exists():  # a connection would make the file
            return set()
        with self._connect() as connection:
            names = sqlalchemy.inspect(connection).get_table_names()
        return {name for name in names if not name.startswith(("alembic_", "_alembic_"))}

    def _check_owner(self) -> None:
        """Raise TrackingError for another program's database: MLflow would add its tables to it."""
        foreign = sorted(self.tables - MLFLOW_TABLES)
        if foreign and not self.tables >= MLFLOW_TABLES:
            raise TrackingError(
                f"the database {store_address()} is another program's, not MLflow's: it has a "
                f"table '{foreign[0]}'. It was left as it is: {USE_ANOTHER_STORE}"
            )

    def _check_has_run(self) -> None:
        """Raise TrackingError if a relative path names another file here.

        `mlflow run` makes the run in the caller's folder, but starts the entry point in the
        project's.
        """
        run_id = MLFLOW_RUN_ID.get()
        if not run_id or self.path is None or self.path.is_absolute():
            return
        if "runs" in self.tables:
            with self._connect() as connection:
                query = sqlalchemy.text("SELECT 1 FROM runs WHERE run_uuid = :run_id")
                if connection.scalar(query, {"run_id": run_id}):
                    return
        raise TrackingError(
            f"MLFLOW_TRACKING_URI={store_address()} is relative to the folder in which `mlflow run`"
            " was called and made the run, but the entry point looks for it in the project's "
            f"folder: give an absolute path, such as sqlite:///$PWD/{self.path}."
        )

    def is_half_made(self) -> bool:
        """Whether the SQLite file has tables, but no rows except those of MLflow's migrations."""
        if self.path is None or not self.tables:
            return False
        try:
            with self._connect() as connection:
                return not any(
                    connection.scalar(sqlalchemy.select(sqlalchemy.exists().select_from(table)))
                    for table in map(sqlalchemy.table, self.tables - {"workspaces"})
                )
        except sqlalchemy.exc.DBAPIError:  # locked, or damaged
            return False

    def _make_sqlite(self, path: Path) -> None:
        """Make all tables in another file, then rename it.

        MLflow takes seconds to make them, and could never open a database if killed before the end.
        """
        new = f"{path}.new"
        for left_by_a_kill in (Path(new), Path(f"{new}-journal")):
            left_by_a_kill.unlink(missing_ok=True)
        MlflowClient(str(self.url.set(database=new))).search_experiments(max_results=1)
        os.replace(new, path)


def _take_advisory_lock(connection: sqlalchemy.Connection) -> None:
    """Raises Timeout as FileLock does."""
    if not connection.scalar(sqlalchemy.text(f"SELECT pg_try_advisory_lock({LOCK_NUMBER})")):
        raise Timeout(f"{LOCK_NUMBER} (advisory)")


@contextmanager
def explain_store_errors() -> Iterator[None]:
    """Turn what MLflow raises inside into a TrackingError of one sentence."""
    try:
        yield
    except (MlflowException, requests.RequestException) as error:
        raise TrackingError(f"MLflow at {store_address()} reports: {first_line(error)}") from error
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        name = f" '{error.filename}'" if error.filename else ""
        raise TrackingError(
            f"a file{name} of the run cannot be written ({error.strerror}): make room, or set "
            f"MLFLOW_TRACKING_URI, now {store_address()}, to a store that can be written."
        ) from error


def store_address() -> str:
    """The tracking URI without a password, as it may be shown and stored."""
    return without_password(mlflow.get_tracking_uri())


def without_password(text: str) -> str:
    """The text with `***` for the password of each address of a server or database in it."""
    return PASSWORD.sub(lambda found: f"{found[found.lastindex or 0]}***", text)


def first_line(error: Exception) -> str:
    """The message of an error in one line, without passwords.

    SQLAlchemy may put another line before it, `(raised as a result of …)`, and MLflow may put the
    reason after a line that ends with a colon.
    """
    lines = without_password(str(error)).strip().splitlines() or [type(error).__name__]
    if len(lines) > 1 and lines[0].startswith("(raised as a result"):
        del lines[0]
    return " ".join(lines) if lines[0].endswith(":") else lines[0]


def run_page(experiment_id: str, run_id: str, artifact: str = "") -> str:
    """The path of a run's page in the MLflow UI, `#/…`, or of the page of its artifact."""
    shown = f"/artifacts/{artifact}" if artifact else ""
    return f"#/experiments/{experiment_id}/runs/{run_id}{shown}?{CLASSIC_UI}"


def ui_address() -> str:
    """Where the MLflow UI shows this store: the server, or where `mlflow ui` starts it."""
    uri = mlflow.get_tracking_uri()
    if uri.startswith(("http:", "https:")):
        return re.sub("://[^/@]*@", "://", uri).rstrip("/")  # a browser asks for the credentials
    return UI_ADDRESS


def how_to_open(experiment_id: str, run_id: str, *pages: str) -> str:
    """How to open the run's page and other pages, `#/…`: their addresses in the MLflow UI.

    Without a server, the command that starts the UI on this store comes first.
    """
    uri, shown = mlflow.get_tracking_uri(), store_address()
    addresses = [
        f"Open   {ui_address()}/{page}" for page in (run_page(experiment_id, run_id), *pages)
    ]
    if uri.startswith(("http:", "https:")):
        return "\n".join(addresses)
    uri = shlex.quote(uri) if uri == shown else '"$MLFLOW_TRACKING_URI"'
    return "\n".join([f"Start  mlflow ui --backend-store-uri {uri}", *addresses])
