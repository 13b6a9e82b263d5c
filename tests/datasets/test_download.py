"""Downloads give the right bytes, or one sentence and no file, from servers that fail."""

import http.server
import io
import ssl

import pytest
from file_server import Handler, file_server, use_new_cache
from rating_files import GOOD_ZIP, files_under, sha256
from sentences import one_sentence

from embedlab.datasets import download
from embedlab.datasets.download import fetch
from embedlab.errors import DownloadError

cached = pytest.fixture(use_new_cache, autouse=True)


@pytest.fixture
def server():
    with file_server() as server:
        yield server


def test_a_good_file_is_fetched_once_with_one_line(server, cached, capsys):
    for _ in range(2):
        path = fetch(f"{server.url}/good", sha256(GOOD_ZIP), "a.zip")
        assert path == cached / "downloads" / "a.zip"
        assert path.read_bytes() == GOOD_ZIP
    assert server.asked == ["good"]
    assert capsys.readouterr().err == f"Downloading {server.url}/good\n"


def test_a_damaged_file_in_the_cache_is_fetched_again(server):
    path = fetch(f"{server.url}/good", sha256(GOOD_ZIP), "a.zip")
    path.write_bytes(b"half")
    assert fetch(f"{server.url}/good", sha256(GOOD_ZIP), "a.zip").read_bytes() == GOOD_ZIP


def test_a_server_error_that_passes_is_tried_again(server):
    assert fetch(f"{server.url}/flaky", sha256(GOOD_ZIP), "a.zip").read_bytes() == GOOD_ZIP
    assert server.asked == ["flaky", "flaky"]


@pytest.mark.parametrize(
    ("kind", "attempts", "reason"),
    [
        ("404", 1, "the server answered 404 Not Found"),
        ("500", 3, "the server answered 500 Internal Server Error"),
        ("truncated", 3, "the connection broke off before the file was complete"),
        ("truncated-without-length", 1, "the downloaded file has another checksum"),
        ("tampered", 1, "the downloaded file has another checksum"),
        ("silent", 3, "the server did not answer in time"),
    ],
)
def test_a_bad_answer_is_one_sentence_and_leaves_nothing(
    server, cached, monkeypatch, kind, attempts, reason
):
    monkeypatch.setattr(download, "TIMEOUT", (2, 0.3))
    url = f"{server.url}/{kind}"
    with pytest.raises(DownloadError) as error:
        fetch(url, sha256(GOOD_ZIP), "a.zip", option="weights")
    text = one_sentence(error)
    assert url in text and reason in text and "weights=<path>" in text
    assert server.asked == [kind] * attempts
    assert files_under(cached) == set()
    fetch(f"{server.url}/good", sha256(GOOD_ZIP), "a.zip")  # the next run goes well


def test_no_network_is_one_sentence():
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as closed:
        url = f"http://127.0.0.1:{closed.server_port}/good"
    with pytest.raises(DownloadError) as error:
        fetch(url, sha256(GOOD_ZIP), "a.zip")
    assert "could not be reached" in one_sentence(error)


@pytest.mark.parametrize(
    "why", ["certificate has expired", "self-signed certificate", None], ids=str
)
def test_a_bad_certificate_is_one_sentence_and_tried_once(monkeypatch, why):
    """The error is requests' own, raised by a stand-in for a server with a bad certificate."""
    import requests

    calls = []

    def get(url, **_):
        calls.append(url)
        inner = ssl.SSLCertVerificationError(1, f"certificate verify failed: {why} (_ssl.c:1006)")
        raise requests.exceptions.SSLError(inner if why else "EOF occurred")

    monkeypatch.setattr(requests, "get", get)
    with pytest.raises(DownloadError) as error:
        fetch("https://example.org/a.zip", "0" * 64, "a.zip")
    assert f"not accepted ({why or 'the secure connection failed'})" in one_sentence(error)
    assert len(calls) == 1


def test_an_interrupted_download_leaves_nothing(server, cached, monkeypatch):
    def interrupt(self, *_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("rich.progress.Progress.update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(f"{server.url}/good", sha256(GOOD_ZIP), "a.zip")
    assert files_under(cached) == set()


def test_the_bar_on_a_terminal_counts_to_the_end(server, monkeypatch):
    from rich.console import Console

    shown = io.StringIO()
    monkeypatch.setattr(
        "rich.console.Console",
        lambda **_: Console(file=shown, force_terminal=True, width=100),
    )
    fetch(f"{server.url}/good", sha256(GOOD_ZIP), "a.zip")
    assert f"{len(GOOD_ZIP)}/{len(GOOD_ZIP)} bytes" in shown.getvalue()
