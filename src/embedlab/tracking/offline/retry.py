"""Outages of the tracking store: their recognition, short requests, and retries with a time limit.

During an outage (a server restarts, the network fails, a database is locked) the same request may
succeed later. MLflow retries every request for about four minutes, without a message. That is too
long in the middle of a fit, where `short_requests` limits it, and too short at the end of a run,
where `retry_until_available` repeats it.
"""

import logging
import math
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import requests
from filelock import Timeout
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE, ErrorCode
from requests.exceptions import ChunkedEncodingError, RetryError, SSLError

from embedlab.errors import OptionError, StoreUnavailableError
from embedlab.tracking.store import store_address

WAIT_VARIABLE = "EMBEDLAB_WAIT_FOR_SERVER"
DEFAULT_WAIT_LIMIT = 600  # seconds
SHORT_TIMEOUT = 10  # seconds of a request during a fit
FIRST_PAUSE, MAX_PAUSE = 0.1, 10.0  # seconds between two attempts of a run that only waits
SECONDS_BETWEEN_LINES = 30.0

T = TypeVar("T")


def log_line(text: str) -> None:
    """Print a line on stderr, which does not break a progress bar."""
    logging.getLogger(__name__).warning(text)


def outage_reason(error: BaseException | None) -> str | None:
    """A phrase that says why the store is unavailable; None for an error that no retry can fix."""
    while error is not None:
        text = str(error)
        match error:
            case SSLError():
                return None
            case RetryError():
                status = re.search(r"too many (\d+) error responses", text)
                return f"it answers {status[1]}" if status else "it answers with errors"
            case requests.Timeout() | requests.ConnectionError() | ChunkedEncodingError():
                if "timed out" in text:
                    return "no answer in time"
                return "connection refused" if "refused" in text else "it could not be reached"
            case MlflowException() | sqlite3.OperationalError() if "database is locked" in text:
                return "its database is locked"
            case MlflowException() if error.error_code == ErrorCode.Name(TEMPORARILY_UNAVAILABLE):
                return None if "sqlite3" in text else "its database could not be reached"
            case Timeout():
                return f"another process holds its lock {error.lock_file} and has to end first"
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def short_requests(timeout: int = SHORT_TIMEOUT, retries: int = 1) -> Iterator[None]:
    """Limit MLflow's requests in the block: seconds without an answer, and number of retries.

    One retry, without a pause, replaces a connection that a restarted server has closed.
    """
    settings = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries),
        "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    }
    previous = {name: os.environ[name] for name in settings if name in os.environ}
    os.environ |= settings
    try:
        yield
    finally:
        for name in settings:
            del os.environ[name]
        os.environ |= previous


def wait_limit() -> float:
    """The time limit of a run that waits for its store, in seconds.

    Raises OptionError if EMBEDLAB_WAIT_FOR_SERVER is not a finite number from 0 up.
    """
    text = os.environ.get(WAIT_VARIABLE) or str(DEFAULT_WAIT_LIMIT)
    with suppress(ValueError):
        if 0 <= (seconds := float(text)) < math.inf:
            return seconds
    raise OptionError(f"{WAIT_VARIABLE}: expected seconds, a number from 0 up, got {text!r}")


def retry_until_available(do: Callable[[], T], silence: float = 0.0) -> T:
    """Call `do` until the store is available, and return its result.

    Logs a line every 30 s, the first after `silence` seconds. Raises StoreUnavailableError after
    `wait_limit`, and errors that are not outages at once.
    """
    started, pause, limit = time.monotonic(), FIRST_PAUSE, wait_limit()
    next_line = started + silence
    while True:
        try:
            return do()
        except Exception as error:
            reason = outage_reason(error)
            if reason is None:
                raise
            now = time.monotonic()
            if now - started >= limit:
                raise StoreUnavailableError(
                    f"MLflow at {store_address()} was unavailable for {limit:g} s ({reason})"
                ) from error
            # During a long pause, other processes could take the lock first.
            max_pause = FIRST_PAUSE if isinstance(error, Timeout) else MAX_PAUSE
        if now >= next_line:
            next_line = now + SECONDS_BETWEEN_LINES
            log_line(
                f"Waiting for MLflow at {store_address()}: {reason}; "
                f"{now - started:.0f} of at most {limit:g} s ({WAIT_VARIABLE})."
            )
        time.sleep(min(pause, max(0.0, started + limit - now)))
        pause = min(2 * pause, max_pause)
