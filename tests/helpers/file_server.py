"""A server of one archive, whole or damaged depending on the path, and a new cache for a test."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rating_files import GOOD_ZIP

from embedlab.datasets import download


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        kind = self.path.strip("/")
        self.server.asked.append(kind)
        if kind == "flaky":  # fails once, then answers
            kind = "good" if self.server.asked.count("flaky") > 1 else "500"
        if kind.isdigit():
            self.send_error(int(kind))
            return
        self.send_response(200)
        if kind != "truncated-without-length":
            self.send_header("Content-Length", str(len(GOOD_ZIP)))
        self.end_headers()
        body = {
            "good": GOOD_ZIP,
            "tampered": GOOD_ZIP[:-1] + b"!",
            "truncated": GOOD_ZIP[:-10],
            "truncated-without-length": GOOD_ZIP[:-10],
            "silent": b"",
        }[kind]
        self.wfile.write(body)
        if kind == "silent":
            self.server.released.wait(5)

    def log_message(self, *_):
        pass


@contextmanager
def file_server() -> Iterator[http.server.ThreadingHTTPServer]:
    """Yield a running server, with its address `url` and the paths `asked` so far."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        server.released = threading.Event()
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


def use_new_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fixture: a cache of the test's own, no proxy for 127.0.0.1, no pause between attempts."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("EMBEDLAB_CACHE", str(folder))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0))
    return folder
