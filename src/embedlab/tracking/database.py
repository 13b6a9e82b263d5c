"""The initialisation of the tracking store: MLflow's tables, made by one process at a time.

MLflow makes the tables of an empty database without a lock, and adds them to any other program's
database. If the process that makes them is killed, it leaves a database that MLflow can never open.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import mlflow
import sqlalchemy
from filelock import FileLock, Timeout
from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR, MLFLOW_RUN_ID
from mlflow.tracking import MlflowClient

from embedlab.errors import EmbedlabError, TrackingError
from embedlab.tracking.offline.retry import outage_reason, retry_until_available, short_requests
from embedlab.tracking.store import safe_first_line, store_address

LOCK_NUMBER = 1_162_692_676  # of a PostgreSQL advisory lock; any number that no other program uses
LOCK_NOTICE_SECONDS = 5.0  # before a line names the lock that is waited for
MLFLOW_TABLES = {"experiments", "metrics", "params", "runs", "tags"}  # since its first version
USE_ANOTHER_STORE = (
    "set MLFLOW_TRACKING_URI to another, such as sqlite:////absolute/path/mlflow.db."
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


def initialise_store() -> None:
    """Create the store's tables and its Default experiment if they are missing.

    An experiment that this function creates in a database keeps its artifacts in local folders.

    Raises TrackingError if the store cannot be opened, or is another program's database, which is
    left unchanged; StoreUnavailableError if another process holds it for too long.
    """
    _limit_output()
    uri = mlflow.get_tracking_uri()
    database = _Database(uri) if uri.startswith(("sqlite:", "postgresql")) else None
    try:
        if database is None:
            ping_store()
            return
        database.check_is_ours()
        with database.lock():
            database.make_if_missing()
            ping_store()
    except EmbedlabError:
        raise
    except Exception as error:  # of MLflow, the database, its driver or the file system
        reason = outage_reason(error) or f"{type(error).__name__}: {safe_first_line(error)}"
        if database and database.is_half_made():
            raise TrackingError(
                f"the store {store_address()} was left half made by a first `mlflow run` that was "
                "killed, and never held a run: delete that file and start again."
            ) from error
        raise TrackingError(
            f"MLflow cannot open its store {store_address()} ({reason}): {USE_ANOTHER_STORE}"
        ) from error


def ping_store() -> None:
    """Send a small request; a store that is an empty database makes its tables first."""
    with short_requests():
        MlflowClient().search_experiments(max_results=1)


def _limit_output() -> None:
    """Let MLflow log and show less of its own work."""
    for name, level in MLFLOW_LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    if not MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.is_set():  # its bars would be among our own
        MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)


class _Database:
    """The SQLite file or PostgreSQL database that is the store, without a server in front of it.

    path    of the SQLite file; None for PostgreSQL.
    tables  names, without Alembic's own; empty until `check_is_ours` has read them.
    """

    def __init__(self, uri: str):
        self.url = sqlalchemy.make_url(uri)
        is_sqlite = self.url.get_backend_name() == "sqlite"
        self.path = Path(self.url.database or "") if is_sqlite else None
        self.tables: set[str] = set()

    def check_is_ours(self) -> None:
        """Raises TrackingError if the database is another program's or lacks `mlflow run`'s run."""
        self.tables = retry_until_available(self._read_tables)
        self._check_owner()
        self._check_has_run()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Exclude every other process from this database.

        Without the lock, if several processes were the first to use a database, most of them would
        fail, because MLflow makes its tables without a lock. A server needs no lock, because it has
        made the tables before it answers.
        """
        if self.path is None:
            with self._connect() as connection:
                take = partial(_take_advisory_lock, connection)
                retry_until_available(take, LOCK_NOTICE_SECONDS)
                yield  # the lock ends with the connection
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{self.path}.lock", blocking=False)
        Path(lock.lock_file).touch()  # FileLock may wait for a file that cannot be made
        with retry_until_available(lock.acquire, LOCK_NOTICE_SECONDS):
            yield

    def make_if_missing(self) -> None:
        """Make a SQLite database with all tables in another file, then rename it.

        MLflow takes seconds to make the tables, and can never open a database if it is killed
        before the end.
        """
        if self.path is None or self.path.exists():
            return
        new = f"{self.path}.new"
        for left_by_a_kill in (Path(new), Path(f"{new}-journal")):
            left_by_a_kill.unlink(missing_ok=True)
        MlflowClient(str(self.url.set(database=new))).search_experiments(max_results=1)
        os.replace(new, self.path)

    def _connect(self) -> sqlalchemy.Connection:
        return sqlalchemy.create_engine(self.url, poolclass=sqlalchemy.NullPool).connect()

    def _read_tables(self) -> set[str]:
        if self.path is not None and not self.path.exists():  # a connection would make the file
            return set()
        with self._connect() as connection:
            names = sqlalchemy.inspect(connection).get_table_names()
        return {name for name in names if not name.startswith(("alembic_", "_alembic_"))}

    def _check_owner(self) -> None:
        """Raises TrackingError for another program's database, which MLflow would add tables to."""
        foreign = sorted(self.tables - MLFLOW_TABLES)
        if foreign and not self.tables >= MLFLOW_TABLES:
            raise TrackingError(
                f"the database {store_address()} is another program's, not MLflow's: it has a "
                f"table '{foreign[0]}'. It was left as it is: {USE_ANOTHER_STORE}"
            )

    def _check_has_run(self) -> None:
        """Raises TrackingError if the store's relative path names another file here.

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


def _take_advisory_lock(connection: sqlalchemy.Connection) -> None:
    """Raises Timeout as FileLock does."""
    if not connection.scalar(sqlalchemy.text(f"SELECT pg_try_advisory_lock({LOCK_NUMBER})")):
        raise Timeout(f"{LOCK_NUMBER} (advisory)")
