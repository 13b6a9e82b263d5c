"""One file from the web: checked against its sha256, kept in the cache, fetched once.

In: a URL and the sha256 of what it must give. Out: the path of a file with exactly those bytes.
"""

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from embedlab.datasets.cache import cache_folder, working_folder
from embedlab.errors import DownloadError
from embedlab_serving.hashing import sha256_of

if TYPE_CHECKING:
    from rich.console import Console

TIMEOUT = (10, 60)  # seconds: to connect, and between two pieces of the answer
WAITS = (1.0, 3.0)  # seconds before the second and the third attempt
CHUNK = 1 << 16  # bytes


def fetch(
    url: str,
    sha256: str,
    filename: str,
    *,
    option: str | None = "ratings",
    folder: Path | None = None,
) -> Path:
    """Return the path of `filename`, downloaded from `url` unless it is there already.

    The file lies in `folder` (default: `downloads` in the cache) and has the given `sha256` (hex);
    one that lies there with another is fetched again. Broken connections and server errors are
    tried three times, answers that will not change (404, a bad certificate) once. `option` is the
    parameter that takes a file fetched by hand, which the error text names; None: the text says
    where to save that file.

    Raises DownloadError if the file cannot be had or has another checksum; nothing of it is left
    behind then.
    """
    folder = cache_folder() / "downloads" if folder is None else folder
    target = folder / filename
    try:
        if target.is_file() and sha256_of(target) == sha256:
            return target
        reason = _download(url, sha256, target)
    except OSError as error:
        reason = f"{target} cannot be written ({error.strerror or error})"
    if reason is None:
        return target
    by_hand = (
        f"save it as {target}" if option is None else f"pass its absolute path: {option}=<path>"
    )
    raise DownloadError(
        f"Could not download {url}: {reason}; try again later, or fetch it by hand and {by_hand}."
    )


def _download(url: str, sha256: str, target: Path) -> str | None:
    """Write the file, in up to three attempts. Returns why that failed, or None."""
    import requests
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console.print(f"Downloading {url}", markup=False, soft_wrap=True)
    for wait in (*WAITS, None):
        try:
            with working_folder(target.parent) as work:
                _write_answer(url, work / target.name, console)
                if sha256_of(work / target.name) != sha256:
                    return f"what came is not the expected file (sha256 {sha256[:12]}…)"
                os.replace(work / target.name, target)
            return None
        except requests.RequestException as error:
            reason, may_pass = _reason(error)
            if not may_pass:
                break
            time.sleep(wait or 0)
    return reason


def _write_answer(url: str, path: Path, console: "Console") -> None:
    """One request, with a progress bar where `console` is a terminal."""
    import requests
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with (
        requests.get(url, stream=True, timeout=TIMEOUT) as answer,
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
        open(path, "wb") as file,
    ):
        answer.raise_for_status()
        size = int(answer.headers.get("Content-Length", 0)) or None
        task = progress.add_task(path.name, total=size)
        for piece in answer.iter_content(CHUNK):
            file.write(piece)
            progress.update(task, advance=len(piece))


def _reason(error: Exception) -> tuple[str, bool]:
    """The cause in a few words, and whether the same request may succeed a moment later."""
    from requests import exceptions

    match error:  # subclasses before their base
        case exceptions.HTTPError(response=answer):
            may_pass = answer.status_code >= 500 or answer.status_code == 429
            return f"the server answered {answer.status_code} {answer.reason}".rstrip(), may_pass
        case exceptions.SSLError():
            found = re.search(r"certificate verify failed: ([^('\"]+)", str(error))
            why = found[1].strip() if found else "the secure connection failed"
            return f"the server's TLS certificate was not accepted ({why})", False
        case exceptions.ProxyError():
            return "the proxy refused or could not be reached", True
        case exceptions.ChunkedEncodingError():
            return "the connection broke off before the file was complete", True
        # A pause in the middle of the body comes as a ConnectionError around the time-out.
        case exceptions.Timeout() | exceptions.ConnectionError() if "timed out" in str(error):
            return "the server did not answer in time", True
        case exceptions.ConnectionError():
            return "the server could not be reached (is there a network?)", True
    return f"the request failed ({type(error).__name__})", False
