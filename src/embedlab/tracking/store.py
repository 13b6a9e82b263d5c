"""The tracking store: its address, its pages in the MLflow UI, and its errors in a sentence.

MLflow chooses the store: MLFLOW_TRACKING_URI, or `mlflow.db` and `mlruns/` in the folder in which
`mlflow run` was called.
"""

import errno
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
import requests
from mlflow.exceptions import MlflowException

from embedlab.errors import TrackingError

UI_ADDRESS = "http://127.0.0.1:5000"
# The disk is full, or cannot be written.
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)
# The group of each alternative is kept; the password, which follows it, is replaced.
PASSWORD = re.compile(
    # http://user:<password>@host, up to the last @ before a slash
    r"(https?://[^\s/:@]*:)[^\s/]*(?=@)"
    # postgresql://user:<password>@host, up to the last @: the password may hold slashes
    r"|((?:postgresql|mysql|mssql)[^\s:]*://[^\s/:@]*:)\S*(?=@)"
    # ?password=<password>&…
    r"|([?&](?:\w*password|odbc_connect)=)[^\s&]*"
)
CLASSIC_UI = "workflowType=machine_learning"  # without it the UI opens on the traces of chat models


def check_artifact_location(experiment_id: str) -> None:
    """Raises TrackingError if artifacts of this experiment could not be stored.

    An experiment that `mlflow ui` or `mlflow server` made keeps its artifacts behind the server
    (`mlflow-artifacts:`), where a run that writes to the database directly cannot reach them.
    """
    location = mlflow.get_experiment(experiment_id).artifact_location
    if location.startswith("mlflow-artifacts:") and not has_server():
        raise TrackingError(
            "this experiment was made by `mlflow ui` or `mlflow server` and keeps its artifacts "
            "behind that server, but this run writes to the database directly: add "
            "--experiment-name embedlab to `mlflow run`, or set MLFLOW_TRACKING_URI to the "
            "server's http address."
        )


@contextmanager
def explain_store_errors() -> Iterator[None]:
    """Turn what MLflow raises inside into a TrackingError of one sentence."""
    try:
        yield
    except (MlflowException, requests.RequestException) as error:
        raise TrackingError(
            f"MLflow at {store_address()} reports: {safe_first_line(error)}"
        ) from error
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        name = f" '{error.filename}'" if error.filename else ""
        raise TrackingError(
            f"a file{name} of the run cannot be written ({error.strerror}): make room, or set "
            f"MLFLOW_TRACKING_URI, now {store_address()}, to a store that can be written. With "
            "a database, call `mlflow run` from a folder that can be written: a new experiment "
            "keeps its files there."
        ) from error


def has_server() -> bool:
    """Whether runs reach the store through a server, not as a database."""
    return mlflow.get_tracking_uri().startswith(("http:", "https:"))


def store_address() -> str:
    """The tracking URI without a password, as it may be shown and stored."""
    return without_password(mlflow.get_tracking_uri())


def without_password(text: str) -> str:
    """The text with `***` for the password of each address of a server or database in it."""
    return PASSWORD.sub(lambda match: f"{match[match.lastindex or 0]}***", text)


def safe_first_line(error: Exception) -> str:
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
    suffix = f"/artifacts/{artifact}" if artifact else ""
    return f"#/experiments/{experiment_id}/runs/{run_id}{suffix}?{CLASSIC_UI}"


def ui_address() -> str:
    """The address of the MLflow UI for this store: the server's, or that of `mlflow ui`."""
    if not has_server():
        return UI_ADDRESS
    # Without the credentials: the browser asks for them.
    return re.sub("://[^/@]*@", "://", mlflow.get_tracking_uri()).rstrip("/")


def ui_instructions(experiment_id: str, run_id: str, *pages: str) -> str:
    """Lines to print: addresses of the run's page and of other pages, `#/…`, in the MLflow UI.

    Without a server, the command that starts the UI on this store comes first.
    """
    all_pages = run_page(experiment_id, run_id), *pages
    lines = [f"Open   {ui_address()}/{page}" for page in all_pages]
    if not has_server():
        uri = mlflow.get_tracking_uri()
        has_password = uri != store_address()
        argument = '"$MLFLOW_TRACKING_URI"' if has_password else shlex.quote(uri)
        lines.insert(0, f"Start  mlflow ui --backend-store-uri {argument}")
    return "\n".join(lines)


def find_experiment_id(name: str) -> str:
    """The id of an experiment. Raises TrackingError if there is none of that name."""
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        names = ", ".join(item.name for item in client.search_experiments())
        raise TrackingError(
            f"experiment: expected one of {names} in {store_address()}, got {name!r}."
        )
    return experiment.experiment_id
