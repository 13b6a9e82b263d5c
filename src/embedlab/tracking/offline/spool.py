"""The spool: a local folder of what a run could not log while the store was unavailable.

`<cache>/unsent/<run id>/` holds

    log.jsonl    one line each for the store, every metric, parameter and tag, and the run's status
    artifacts/   files, under their artifact paths
    lock         held by the process that spools or sends

The run sends its spool when the store is available again. If the run gave up or was killed, the
next entry point that starts with this cache and store sends the spool. Sending twice, because an
answer was lost, duplicates nothing: MLflow stores a metric with the same step, value and time once,
and a file replaces the file of the same name.
"""

import json
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
from filelock import FileLock, Timeout
from mlflow.entities import Metric, Param, RunTag

from embedlab.datasets.cache import cache_folder
from embedlab.errors import DataError, TrackingError
from embedlab.formatting import counted
from embedlab.tracking.offline.retry import SHORT_TIMEOUT, log_line, outage_reason, short_requests
from embedlab.tracking.store import safe_first_line, store_address

MAX_BATCH_METRICS = 500  # MLflow accepts up to 1,000 in one batch
SLOWEST_UPLOAD = 2**20  # bytes a second
REFUSED = ".refused"


class Spool:
    """The spool of one run."""

    def __init__(self, run_id: str):
        self.run_id = run_id
        self._lock: FileLock | None = None

    @property
    def is_open(self) -> bool:
        """Whether this process holds the spool's lock, and so spools what the run logs."""
        return self._lock is not None

    @property
    def folder(self) -> Path:
        return cache_folder() / "unsent" / self.run_id

    def add(
        self, metrics: Iterable[Metric], params: Iterable[Param], tags: Iterable[RunTag]
    ) -> None:
        """Spool the metrics, parameters and tags of a call of MLflow's `log_batch`."""
        self._append(
            *({"metric": [m.key, m.value, m.timestamp, m.step]} for m in metrics),
            *({"param": [param.key, param.value]} for param in params),
            *({"tag": [tag.key, tag.value]} for tag in tags),
        )

    def add_status(self, status: str) -> None:
        """Spool the run's final status, and the present time as its end."""
        self._append({"status": [status, int(time.time() * 1000)]})

    def add_files(self, path: Path, artifact_folder: str) -> None:
        """Spool a copy of the file, or of all files of the folder, for `artifact_folder`."""
        base = path if path.is_dir() else path.parent
        with self._open() as folder:
            for file in _files(path):
                target = folder / "artifacts" / artifact_folder / file.relative_to(base)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, folder / "half")
                os.replace(folder / "half", target)  # a kill leaves no half artifact

    def _append(self, *records: Mapping[str, object]) -> None:
        # The newline comes first, because a full disk may have cut off the previous line.
        lines = "".join("\n" + json.dumps(record) for record in records)
        with self._open() as folder, open(folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(lines)

    @contextmanager
    def _open(self) -> Iterator[Path]:
        """Yield the folder, locked by this process. Raises DataError if it cannot be written."""
        folder = self.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self._lock is None:
                lock = FileLock(folder / "lock", thread_local=False)
                lock.acquire(timeout=SHORT_TIMEOUT)
                self._lock = lock
                self._append({"store": store_address()})
            yield folder
        except OSError as error:
            raise DataError(
                f"MLflow at {store_address()} is unavailable, and what this run logs cannot be "
                f"kept in {folder} until then ({error.strerror or error})."
            ) from error

    def claim(self) -> bool:
        """Take over the spool of an ended process; False if it is in use or for another store."""
        self._lock = FileLock(self.folder / "lock", thread_local=False)
        with suppress(Timeout, OSError, ValueError):  # another process holds it, or it is no spool
            self._lock.acquire(blocking=False)
            if store_address() in self._records()["store"]:
                return True
        self.release()
        return False

    def send(self) -> str:
        """Send everything and remove the folder; return a phrase on how much was sent.

        Raises MLflow's error if the store is unavailable; the spool is then kept. Raises
        TrackingError if MLflow refuses the data; the folder is then renamed, so that later starts
        ignore it.
        """
        try:
            sent = self._send()
        except Exception as error:
            if outage_reason(error) is not None:
                raise
            aside = self.folder.with_suffix(REFUSED)
            if aside.exists():
                aside = self.folder.with_suffix(f".{time.time_ns()}{REFUSED}")
            self.folder.rename(aside)
            self.release()
            raise TrackingError(
                f"MLflow at {store_address()} refuses what run {self.run_id} had kept while it was "
                f"unavailable ({safe_first_line(error)}); that is now in {aside}."
            ) from error
        shutil.rmtree(self.folder)
        self.release()
        return sent

    def _send(self) -> str:
        """Send everything to the store; returns what was sent, as a phrase."""
        client = mlflow.MlflowClient()
        records = self._records()
        files = self.folder / "artifacts"
        metrics = [Metric(*values) for values in records["metric"]]
        params = [Param(*item) for item in dict(records["param"]).items()]
        tags = [RunTag(*item) for item in dict(records["tag"]).items()]
        with short_requests(upload_timeout(files)):
            client.log_batch(self.run_id, params=params, tags=tags)
            for start in range(0, len(metrics), MAX_BATCH_METRICS):
                client.log_batch(self.run_id, metrics[start : start + MAX_BATCH_METRICS])
            if files.is_dir():
                client.log_artifacts(self.run_id, str(files))
            for status, end_time in records["status"]:
                client.set_terminated(self.run_id, status, end_time)
        return f"{counted(len(metrics), 'metric')} and {counted(len(_files(files)), 'file')}"

    def _records(self) -> dict[str, list]:
        """The spooled records by kind, in the order in which they were written."""
        records = defaultdict(list)
        for line in (self.folder / "log.jsonl").read_text(encoding="utf-8").splitlines(True):
            with suppress(ValueError):  # a kill or a full disk may leave half a line
                ((kind, values),) = json.loads(line).items()
                records[kind].append(values)
        return records

    def release(self) -> None:
        """Release the lock, so that another process can take the spool."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def send_earlier_spools() -> None:
    """Send what earlier runs with this cache could not log to this store."""
    try:
        folders = sorted((cache_folder() / "unsent").glob("*"))
    except DataError:  # a cache that cannot be written holds no spool
        return
    for folder in folders:
        spool = Spool(folder.name)
        if folder.suffix == REFUSED or not spool.claim():
            continue
        try:
            log_line(f"Sent what run {spool.run_id} could not log: {spool.send()}.")
        except TrackingError as refused:
            log_line(str(refused))
        except Exception:  # unavailable again, which this run will notice on its own
            spool.release()


def upload_timeout(path: Path) -> int:
    """The time limit of a request that uploads the file, or the files of the folder."""
    return SHORT_TIMEOUT + sum(file.stat().st_size for file in _files(path)) // SLOWEST_UPLOAD


def _files(path: Path) -> list[Path]:
    """The file itself, or all files of the folder, at any depth."""
    return [file for file in (path, *path.rglob("*")) if file.is_file()]
