"""Twelve movies, requests to a served model as the README shows them, and its answers."""

import asyncio
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir

import pandas as pd
import pytest
from conftest import PROJECT
from mlflow.models import Model

from embedlab_serving.digests import DIGESTS, digests_of

SERVER_PACKAGES = ("mlflow", "httptools", "uvloop", "numpy", "pandas")
MOVIES = pd.DataFrame(
    [
        (1941, "Hamlet (1948)", "Drama", 5),
        (1411, "Hamlet (1996)", "Crime|Drama|Romance", 6),
        (1, "Toy Story (1995)", "Adventure|Animation|Children", 12),
        (3114, "Toy Story 2 (1999)", "Adventure|Animation|Children", 7),
        (4973, "Amélie (Fabuleux destin d'Amélie Poulain, Le) (2001)", "Comedy|Romance", 11),
        (2571, "Matrix, The (1999)", "Action|Sci-Fi|Thriller", 10),
        (293, "Léon: The Professional (a.k.a. The Professional) (Léon) (1994)", "Action|Crime", 9),
        (47, "Seven (a.k.a. Se7en) (1995)", "Mystery|Thriller", 8),
        (8239, "Trou, Le (Hole, The) (1960)", "Crime|Film-Noir", 4),
        (176601, "Black Mirror", "(no genres listed)", 3),
        (108583, "Fawlty Towers (1975-1979)", "", 2),
        (104780, '"Great Performances" Cats (1998)', "Musical", 1),
    ],
    columns=["movie_id", "title", "genres", "likes"],
)
TOY_STORY, AMELIE, LEON, MATRIX, LE_TROU = MOVIES["title"][[2, 4, 6, 5, 8]]


def write_digests(folder: Path) -> None:
    """Update the digests in a model's MLmodel after a test has changed its files."""
    model = Model.load(folder)
    files = {name: folder / name for name in model.metadata[DIGESTS]}
    model.metadata[DIGESTS] = digests_of(files)
    model.save(folder / "MLmodel")


@dataclass(frozen=True)
class Response:
    status: int
    text: str


def call(app, body: bytes, content_type: str | None) -> Response:
    """POST /invocations to the scoring server's own application, without a port."""
    headers = [(b"content-type", content_type.encode())] if content_type else []
    scope = {"type": "http", "method": "POST", "path": "/invocations", "headers": headers}
    scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": ""}
    sent = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    start, *parts = sent
    return Response(start["status"], b"".join(part["body"] for part in parts).decode())


def ask(*titles: object, **params: object) -> dict:
    """The body of a request, in the form that the README shows."""
    return {"dataframe_records": [{"title": title} for title in titles], "params": params}


def assert_hides(response: "Response", secret: str, log: str) -> None:
    """Assert status 500 with one sentence, and that only the log has the secret."""
    assert response.status == 500
    answer = json.loads(response.text)
    assert answer["error_code"] == "INTERNAL_ERROR"
    assert answer["message"].endswith(
        "Error: the model failed on this request; the server's log says why"
    )
    assert secret not in response.text
    assert not shows_internals(response.text)
    assert secret in log


def shows_internals(text: str) -> bool:
    """Whether the text has a stack trace or a path of the server, perhaps escaped as in JSON."""
    inside = [
        "Traceback",
        'File "',
        'File \\"',
        "site-packages",
        str(PROJECT),
        sys.prefix,
        gettempdir(),
    ]
    return any(part in text for part in inside)


def wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/ping", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the server did not start: {log.read_text()}")


def send(address: str, body: object, content_type: str = "application/json") -> Response:
    request = urllib.request.Request(
        f"{address}/invocations", json.dumps(body).encode(), {"Content-Type": content_type}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return Response(response.status, response.read().decode())
    except urllib.error.HTTPError as error:
        return Response(error.code, error.read().decode())
