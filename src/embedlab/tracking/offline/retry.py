"""A tracking store that is away for a while, told from one that refuses.

A server that restarts, a network that is gone, a locked database: the same request may succeed a
moment later. MLflow tries every request again for about four minutes, without a word. In the
middle of a fit that is too long, at its end it is too short: here are both other ways.
"""

import logging
import math
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import requests
from filelock import Timeout
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE, ErrorCode
from requests.exceptions import ChunkedEncodingError, RetryError, SSLError

from embedlab.errors import OptionError, ServerAwayError

WAIT_VARIABLE = "EMBEDLAB_WAIT_FOR_SERVER"
WAIT_SECONDS = 600
SHORT_SECONDS = 10  # of a request that somebody waits for in a fit
FIRST_PAUSE, MAX_PAUSE = 1.0, 10.0  # between two attempts of a run that only waits
SECONDS_BETWEEN_LINES = 30.0

T = TypeVar("T")


def log_line(text: str) -> None:
    """A line on the terminal, beside a progress bar too."""
    logging.getLogger(__name__).warning(text)


def outage_reason(error: BaseException | None) -> str | None:
    """Why the store is away, in a few words; None for an error that waiting does not mend."""
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
            case MlflowException() if error.error_code == ErrorCode.Name(TEMPORARILY_UNAVAILABLE):
                if "database is locked" in text:
                    return "its database is locked"
                return None if "sqlite3" in text else "its database could not be reached"
            case sqlite3.OperationalError() if "database is locked" in text:
                return "its database is locked"
            case Timeout():
                return f"another process holds its lock {error.lock_file} and has to end first"
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def short_requests(seconds: int = SHORT_SECONDS, retries: int = 1) -> Iterator[None]:
    """MLflow's requests fail after so many seconds without an answer, and so many retries.

    One retry, without a pause, mends a connection that a restarted server has closed.
    """
    settings = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries),
        "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
        "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    }
    before = {name: os.environ.pop(name, None) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def seconds_to_wait() -> float:
    """How long a run waits for its store where it can do nothing else.

    Raises OptionError where EMBEDLAB_WAIT_FOR_SERVER is no such number.
    """
    text = os.environ.get(WAIT_VARIABLE) or str(WAIT_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise OptionError(f"{WAIT_VARIABLE}: expected seconds, a number from 0 up, got {text!r}")
    return seconds


def retry_until_available(store: str, do: Callable[[], T]) -> T:
    """What `do` returns, which is called again while `store` is away, with lines that say so.

    Raises ServerAwayError after `seconds_to_wait`, and at once whatever is not an outage.
    """
    started, last_line, pause, waits = time.monotonic(), -math.inf, FIRST_PAUSE, seconds_to_wait()
    while True:
        try:
            return do()
        except Exception as error:
            reason = outage_reason(error)
            if reason is None:
                raise
            now = time.monotonic()
            if now - started >= waits:
                raise ServerAwayError(
                    f"MLflow at {store} was away for {waits:g} s ({reason})"
                ) from error
        if now - last_line >= SECONDS_BETWEEN_LINES:
            last_line = now
            log_line(
                f"Waiting for MLflow at {store}: {reason}; "
                f"{now - started:.0f} of at most {waits:g} s ({WAIT_VARIABLE})."
            )
        time.sleep(min(pause, max(0.0, started + waits - now)))
        pause = min(2 * pause, MAX_PAUSE)
