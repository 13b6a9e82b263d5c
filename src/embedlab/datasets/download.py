"""One file from the web: checked against its sha256, kept in the cache, fetched once.

In: a URL and the sha256 of what it must give. Out: the path of a file with exactly those bytes.
pooch does the work (request, checksum); here are the temporary folder, the retries, the progress
bar and one sentence for everything that can go wrong.
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
    parameter by which a user can pass a file fetched by hand, which the error text names; where it
    is None, the text says where to put that file.

    Raises DownloadError where the file cannot be had or has another checksum; nothing of it is
    left behind then.
    """
    folder = cache_folder() / "downloads" if folder is None else folder
    target = folder / filename
    by_hand = (
        f"save it as {target}" if option is None else f"pass its absolute path: {option}=<path>"
    )
    try:
        if target.is_file() and sha256_of(target) == sha256:
            return target
        _download(url, sha256, target, by_hand)
    except OSError as error:
        reason = f"{target} cannot be written ({error.strerror or error})"
        raise _failed(url, reason, by_hand) from error
    return target


def _download(url: str, sha256: str, target: Path, by_hand: str) -> None:
    import pooch
    import requests
    from rich.console import Console

    pooch.get_logger().setLevel("WARNING")
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console.print(f"Downloading {url}", markup=False, soft_wrap=True)
    for wait in (*WAITS, None):
        try:
            with _Bar(target.name, console) as bar, working_folder(target.parent) as work:
                pooch.retrieve(
                    url,
                    known_hash=f"sha256:{sha256}",
                    fname=target.name,
                    path=work,
                    downloader=pooch.HTTPDownloader(
                        progressbar=bar, chunk_size=CHUNK, timeout=TIMEOUT
                    ),
                )
                os.replace(work / target.name, target)
            return
        except requests.RequestException as error:
            if wait is None or not _may_pass(error):
                raise _failed(url, _reason(error), by_hand) from error
            time.sleep(wait)
        except ValueError as error:  # pooch's word for a checksum that does not match
            reason = f"what came is not the expected file (sha256 {sha256[:12]}…)"
            raise _failed(url, reason, by_hand) from error


def _failed(url: str, reason: str, by_hand: str) -> DownloadError:
    return DownloadError(
        f"Could not download {url}: {reason}; try again later, or fetch it by hand and {by_hand}."
    )


def _may_pass(error: Exception) -> bool:
    """Whether the same request can go well a moment later."""
    import requests

    if isinstance(error, requests.HTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    if isinstance(error, requests.exceptions.SSLError):
        return False
    return isinstance(
        error,
        requests.ConnectionError | requests.Timeout | requests.exceptions.ChunkedEncodingError,
    )


def _reason(error: Exception) -> str:
    """The cause in a few words, the most special class first."""
    import requests

    if isinstance(error, requests.HTTPError):
        return f"the server answered {error.response.status_code} {error.response.reason}".rstrip()
    if isinstance(error, requests.exceptions.SSLError):
        found = re.search(r"certificate verify failed: ([^('\"]+)", str(error))
        why = found.group(1).strip() if found else "the secure connection failed"
        return f"the server's TLS certificate was not accepted ({why})"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy refused or could not be reached"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off before the file was complete"
    # A pause in the middle of the body comes as a ConnectionError around the time-out.
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return "the server did not answer in time"
    if isinstance(error, requests.ConnectionError):
        return "the server could not be reached (is there a network?)"
    return f"the request failed ({type(error).__name__})"


class _Bar:
    """pooch's progress-bar interface (`total`, `update`, `reset`, `close`), drawn by rich.

    Shows nothing where `console` is not a terminal (a log, MLflow's pipe).
    """

    def __init__(self, label: str, console: "Console"):
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
        from rich.progress import TransferSpeedColumn as SpeedColumn

        self.total = 0  # bytes, set by pooch from Content-Length; 0 where the server gives none
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            SpeedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(label, total=None)

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, n_bytes: int) -> None:
        self._progress.update(self._task, total=self.total or None, advance=n_bytes)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        """Nothing: leaving the `with` block stops the bar, also after an error."""
