"""Outages in tests: a small server that answers as MLflow's does, or refuses, fails, or says
nothing, and what a run logs there."""

import json
import logging
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests
from conftest import use_store
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from embedlab.tracking.offline import client as buffered_client
from embedlab.tracking.offline import retry


class FakeServer:
    """A server of one run: it takes batches and files, or answers `status`; stopped, it refuses.

    status  200, another status to answer with, or None to give no answer until `stop`.
    """

    def __init__(self):
        self.run_id = uuid.uuid4().hex  # MLflow remembers the artifact address of a run
        self.status: int | None = 200
        self.metrics: list[tuple[str, int, float]] = []
        self.tags: dict[str, str] = {}
        self.params: dict[str, str] = {}
        self.files: dict[str, bytes] = {}
        self.ended: tuple[str, int] | None = None
        self.refused: str | None = None  # a path with this end is answered with 400
        self.n_requests = 0
        self._silence_is_over = threading.Event()
        self._connections: list[socket.socket] = []
        self.port = 0
        self.start()

    def start(self) -> None:
        ThreadingHTTPServer.allow_reuse_address = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self._silence_is_over.set()
        self._server.shutdown()
        self._server.server_close()
        for connection in self._connections:  # as at the end of a process
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, path: str, body: bytes) -> dict:
        if "/mlflow-artifacts/" in path:
            self.files[path.partition(f"{self.run_id}/artifacts/")[2]] = body
            return {}
        if "/runs/get" in path:
            info = {
                "run_id": self.run_id,
                "experiment_id": "0",
                "status": "RUNNING",
                "artifact_uri": f"mlflow-artifacts:/0/{self.run_id}/artifacts",
            }
            return {"run": {"info": info, "data": {}}}
        sent = json.loads(body)
        if path.endswith("/runs/log-batch"):
            self.metrics += [
                (m["key"], int(m.get("step", 0)), float(m["value"]))
                for m in sent.get("metrics", ())
            ]
            self.params |= {item["key"]: item["value"] for item in sent.get("params", ())}
            self.tags |= {item["key"]: item["value"] for item in sent.get("tags", ())}
        elif path.endswith("/runs/update"):
            self.ended = sent["status"], int(sent["end_time"])
        return {}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                fake._connections.append(self.request)
                super().setup()

            def answer(self) -> None:
                fake.n_requests += 1
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if fake.status is None:
                    fake._silence_is_over.wait()
                    self.close_connection = True
                    return
                is_refused = fake.refused and self.path.endswith(fake.refused)
                status = 400 if is_refused else fake.status
                text = fake.answer(self.path, body) if status == 200 else {"message": "not now"}
                self.send_response(status)
                answer = json.dumps(text).encode()
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_PUT = do_PATCH = answer

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def run_fake_server() -> Iterator[FakeServer]:
    """A fixture: a server that is MLflow's store in the test."""
    logging.getLogger("urllib3.connectionpool").setLevel(logging.CRITICAL)  # as a run does
    fake = FakeServer()
    with use_store(fake.uri):
        yield fake
    fake.stop()


def shorten_waits(monkeypatch) -> None:
    """A fixture that makes a run try again at once, and give up soon."""
    monkeypatch.setattr(buffered_client, "FIRST_PROBE_PAUSE", 0.0)
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.01)
    monkeypatch.setenv("EMBEDLAB_WAIT_FOR_SERVER", "0.1")


def epoch(number: int) -> list[Metric]:
    return [Metric("train/cost", 9.0 - number, 1_700_000_000_000 + number, number)]


def costs(*epochs: int) -> list[tuple[str, int, float]]:
    return [("train/cost", number, 9.0 - number) for number in epochs]


def unsent_folders() -> list[Path]:
    return sorted(Path(os.environ["EMBEDLAB_CACHE"], "unsent").glob("*"))


def refuse_connection() -> None:
    try:
        raise requests.ConnectionError("[Errno 111] Connection refused")
    except requests.ConnectionError:
        raise MlflowException("API request failed")  # noqa: B904 (as MLflow does)
