"""The tracking store: where runs are kept, and what is wrong with it, in a sentence.

The store is MLflow's own choice: MLFLOW_TRACKING_URI, or `mlflow.db` and `mlruns/` in the folder
in which `mlflow run` was called.
"""

import errno
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import mlflow
import requests
import sqlalchemy
from filelock import FileLock
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from embedlab.errors import TrackingError
from embedlab.tracking.outage import short_requests, why_away

UI_ADDRESS = "http://127.0.0.1:5000"
LOCK_NUMBER = 1_162_692_676  # of PostgreSQL's advisory locks; any that nobody else takes
# Of a disk that is full, or may not be written.
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)
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

    Raises TrackingError where the store cannot be opened.
    """
    uri = mlflow.get_tracking_uri()
    try:
        with short_requests(), _alone_with(uri):
            MlflowClient().search_experiments(max_results=1)
    except Exception as error:  # MLflow's, or the database's, its driver's, the file system's own
        if _is_half_made(uri):
            raise TrackingError(
                f"the store {uri} was left half made by a first `mlflow run` that was killed, and "
                "never held a run: delete that file and start again."
            ) from error
        reason = why_away(error) or f"{type(error).__name__}: {first_line(error)}"
        raise TrackingError(
            f"MLflow cannot open its store {store_address()} ({reason}): "
            "set MLFLOW_TRACKING_URI to another, such as sqlite:////absolute/path/mlflow.db."
        ) from error


@contextmanager
def _alone_with(uri: str) -> Iterator[None]:
    """Let no other process in here with the same database: MLflow makes its tables without a lock,
    and of several first processes most would die. A server has made them before it answers."""
    if not uri.startswith(("sqlite:", "postgresql")):
        yield
        return
    url = sqlalchemy.make_url(uri)
    if url.get_backend_name() == "postgresql":
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({LOCK_NUMBER})"))
            yield  # the lock goes with the connection
    else:
        database = Path(url.database)
        database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{database}.lock"):
            if not database.exists():
                _make_sqlite(url)
            yield


def _make_sqlite(url: sqlalchemy.URL) -> None:
    """The file appears when all tables are in it: MLflow takes seconds to make them, and a database
    whose maker was killed meanwhile could never be opened again."""
    new = f"{url.database}.new"
    for left_by_a_kill in (Path(new), Path(f"{new}-journal")):
        left_by_a_kill.unlink(missing_ok=True)
    MlflowClient(str(url.set(database=new))).search_experiments(max_results=1)
    os.replace(new, url.database)


def _is_half_made(uri: str) -> bool:
    """Whether it has MLflow's tables but not even its Default experiment, which is made last."""
    if not uri.startswith("sqlite:"):
        return False
    try:
        with closing(sqlite3.connect(sqlalchemy.make_url(uri).database)) as connection:
            return connection.execute("SELECT 1 FROM experiments").fetchone() is None
    except sqlite3.Error:
        return False


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
    """The tracking URI as it may be shown: without the password, if there is one in it."""
    return re.sub(r"(://[^/@]*):[^/@]*@", r"\1:***@", mlflow.get_tracking_uri())


def first_line(error: Exception) -> str:
    """What an error says, in one line: SQLAlchemy may put another before it, `(raised as a result
    of …)`, and MLflow ends the first with a colon where the reason comes after it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
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
    uri = mlflow.get_tracking_uri()
    pages = (f"#/experiments/{experiment_id}/runs/{run_id}?{CLASSIC}", *pages)
    if uri.startswith(("http:", "https:")):
        return "\n".join(f"Open   {uri.rstrip('/')}/{page}" for page in pages)
    start = f"Start  mlflow ui --backend-store-uri {uri}"
    return "\n".join([start, *(f"Open   {UI_ADDRESS}/{page}" for page in pages)])
