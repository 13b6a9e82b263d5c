"""Download a file once, verify its sha256 and keep it in the cache.

In: a URL and the sha256 of the expected file. Out: the path of a file with this sha256.
"""

import os
import re
import time
from pathlib import Path

from embedlab.datasets.cache import cache_folder, working_folder
from embedlab.errors import DownloadError
from embedlab_serving.hashing import sha256_of

TIMEOUT = (10, 60)  # seconds: to connect, and between two pieces of the answer
WAITS = (1.0, 3.0)  # seconds before the second and the third attempt
CHUNK = 1 << 16  # bytes


def fetch(url: str, sha256: str, filename: str, option: str | None = None) -> Path:
    """Return the path of `filename` in the cache's `downloads`, fetched from `url` if need be.

    The file has the given `sha256` (hex); a cached file with another sha256 is fetched again. After
    a broken connection or a server error, the request is repeated, up to three attempts in all;
    after an answer that will not change (404, a bad certificate), it is not. `option` is the
    parameter that accepts a file fetched by hand, and the error text names it; if `option` is None,
    the text says where to save that file.

    Raises DownloadError if the file cannot be fetched or has another checksum; no part of the file
    is left behind.
    """
    from requests import RequestException

    target = cache_folder() / "downloads" / filename
    try:
        if target.is_file() and sha256_of(target) == sha256:
            return target
        with working_folder(target.parent) as work:
            file = work / filename
            _download(url, file)
            if sha256_of(file) == sha256:
                os.replace(file, target)
                return target
        reason = f"the downloaded file has another checksum (expected sha256 {sha256[:12]}…)"
    except RequestException as error:
        reason = _reason(error)
    except OSError as error:
        reason = f"{target} cannot be written ({error.strerror or error})"
    by_hand = f"pass its absolute path: {option}=<path>" if option else f"save it as {target}"
    raise DownloadError(
        f"Could not download {url}: {reason}; try again later, or fetch it by hand and {by_hand}."
    )


def _download(url: str, file: Path) -> None:
    """Write the answer to `file`, in up to three attempts, with a progress bar on a terminal.

    Raises the RequestException of the last attempt.
    """
    import requests
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console.print(f"Downloading {url}", markup=False, soft_wrap=True)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    for wait in (*WAITS, None):
        try:
            with (
                requests.get(url, stream=True, timeout=TIMEOUT) as response,
                Progress(*columns, console=console, disable=not console.is_terminal) as progress,
                open(file, "wb") as out,
            ):
                response.raise_for_status()
                size = int(response.headers.get("Content-Length", 0)) or None
                task = progress.add_task(file.name, total=size)
                for piece in response.iter_content(CHUNK):
                    out.write(piece)
                    progress.update(task, advance=len(piece))
                return
        except requests.RequestException as error:
            if wait is None or not _is_transient(error):
                raise
            time.sleep(wait)


def _is_transient(error: Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    from requests import exceptions

    if isinstance(error, exceptions.HTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    return not isinstance(error, exceptions.SSLError)


def _reason(error: Exception) -> str:
    """The cause in a few words."""
    from requests import exceptions

    match error:  # subclasses before their base
        case exceptions.HTTPError(response=response):
            return f"the server answered {response.status_code} {response.reason}".rstrip()
        case exceptions.SSLError():
            found = re.search(r"certificate verify failed: ([^('\"]+)", str(error))
            why = found[1].strip() if found else "the secure connection failed"
            return f"the server's TLS certificate was not accepted ({why})"
        case exceptions.ProxyError():
            return "the proxy refused or could not be reached"
        case exceptions.ChunkedEncodingError():
            return "the connection broke off before the file was complete"
        # A stall in the middle of the body is a ConnectionError that wraps the time-out.
        case exceptions.Timeout() | exceptions.ConnectionError() if "timed out" in str(error):
            return "the server did not answer in time"
        case exceptions.ConnectionError():
            return "the server could not be reached (is there a network?)"
    return f"the request failed ({type(error).__name__})"
