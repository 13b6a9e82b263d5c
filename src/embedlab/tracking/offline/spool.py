"""What runs could not log while the tracking store was away: kept in local folders, sent later.

`<cache>/unsent/<run id>/` holds

    about.json   the store that the run belongs to
    log.jsonl    a line a metric, parameter or tag, and at the end the run's status
    artifacts/   files, under their artifact paths
    lock         held by the process that keeps or sends

The run itself sends it when the store is back. Where the run gave up or was killed, the next entry
point that starts with this cache and store does. What is sent a second time, because an answer was
lost, is not there twice: MLflow takes a metric with the same step, value and time once, and a file
replaces the one of its name.
"""

import json
import os
import posixpath
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from filelock import FileLock, Timeout
from mlflow.entities import Metric, Param, RunTag

from embedlab.datasets.cache import cache_folder
from embedlab.errors import DataError, TrackingError
from embedlab.tracking.offline.retry import SHORT_SECONDS, log_line, outage_reason, short_requests
from embedlab.tracking.store import first_line, store_address
from embedlab.wording import counted

MAX_BATCH_METRICS = 500  # MLflow takes up to 1,000 in one batch
SLOWEST_UPLOAD = 2**20  # bytes a second
REFUSED = ".refused"


class Spool:
    """What is kept of one run; true while this process holds something of it."""

    def __init__(self, run_id: str):
        self.run_id = run_id
        self._lock: FileLock | None = None

    def __bool__(self) -> bool:
        return self._lock is not None

    @property
    def folder(self) -> Path:
        return _spool_folder() / self.run_id

    def keep(
        self,
        metrics: Iterable[Metric] = (),
        params: Iterable[Param] = (),
        tags: Iterable[RunTag] = (),
    ) -> None:
        """Keep what MLflow's `log_batch` takes."""
        self._append(
            *({"metric": [m.key, m.value, m.timestamp, m.step]} for m in metrics),
            *({"param": [param.key, param.value]} for param in params),
            *({"tag": [tag.key, tag.value]} for tag in tags),
        )

    def keep_status(self, status: str) -> None:
        """Keep how the run ended, and that it did so now."""
        self._append({"status": [status, int(time.time() * 1000)]})

    def keep_file(self, file: Path, artifact_folder: str) -> None:
        """Keep a copy of `file` as an artifact in `artifact_folder`."""
        with self._open() as folder:
            target = folder / "artifacts" / artifact_folder / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / "half")  # a kill leaves no half artifact
            os.replace(folder / "half", target)

    def _append(self, *records: dict) -> None:
        lines = "".join(json.dumps(record) + "\n" for record in records)
        with self._open() as folder, open(folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(lines)

    @contextmanager
    def _open(self) -> Iterator[Path]:
        folder = self.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self._lock is None:
                self._lock = _lock_of(folder)
                self._lock.acquire(timeout=SHORT_SECONDS)
                about = json.dumps({"store": store_address()})
                (folder / "about.json").write_text(about, encoding="utf-8")
                (folder / "log.jsonl").touch()
            yield folder
        except OSError as error:
            raise DataError(
                f"MLflow at {store_address()} is away, and what this run logs cannot be kept in "
                f"{folder} meanwhile ({error.strerror or error})."
            ) from error

    def claim(self) -> bool:
        """Hold what another process has left here, if it belongs to this store."""
        lock = _lock_of(self.folder)
        try:
            lock.acquire(blocking=False)
            about = json.loads((self.folder / "about.json").read_text(encoding="utf-8"))
            is_ours = about["store"] == store_address()
        except (Timeout, OSError, ValueError, LookupError):
            is_ours = False
        if is_ours:
            self._lock = lock
        else:
            lock.release()
        return is_ours

    def send(self) -> str:
        """Send everything and remove the folder; what it was, in words.

        Raises MLflow's error while the store is away: all is still there then. Raises TrackingError
        where MLflow refuses it: then it is out of the way of later starts.
        """
        try:
            sent = self._send()
        except Exception as error:
            if outage_reason(error) is not None:
                raise
            aside = self.folder.with_suffix(REFUSED)
            self.folder.rename(aside)
            self.release()
            raise TrackingError(
                f"MLflow at {store_address()} refuses what run {self.run_id} had kept while it was "
                f"away ({first_line(error)}); that is now in {aside}."
            ) from error
        shutil.rmtree(self.folder)
        self.release()
        return sent

    def _send(self) -> str:
        client, kept = mlflow.MlflowClient(), self._records()
        params = [Param(*item) for item in dict(kept["param"]).items()]
        tags = [RunTag(*item) for item in dict(kept["tag"]).items()]
        metrics = [Metric(*values) for values in kept["metric"]]
        with short_requests():
            client.log_batch(self.run_id, params=params, tags=tags)
            for start in range(0, len(metrics), MAX_BATCH_METRICS):
                client.log_batch(self.run_id, metrics[start : start + MAX_BATCH_METRICS])
        root = self.folder / "artifacts"
        files = files_in(root)
        for file in files:
            with short_requests(upload_seconds(file)):
                client.log_artifact(self.run_id, file, artifact_folder(file, root))
        with short_requests():
            for status, end_time in kept["status"]:
                client.set_terminated(self.run_id, status, end_time)
        return f"{counted(len(metrics), 'metric')} and {counted(len(files), 'file')}"

    def _records(self) -> dict[str, list]:
        """By kind, in order."""
        kept: dict[str, list] = {"metric": [], "param": [], "tag": [], "status": []}
        for line in (self.folder / "log.jsonl").read_text(encoding="utf-8").splitlines(True):
            if line.endswith("\n"):  # the last one of a process that was killed may be a half
                for kind, values in json.loads(line).items():
                    kept[kind].append(values)
        return kept

    def release(self) -> None:
        """Let another process have it."""
        self._lock.release()
        self._lock = None


def flush_spool() -> None:
    """Send what earlier runs with this cache could not log to this store."""
    try:
        folders = sorted(_spool_folder().glob("*"))
    except DataError:  # nothing is kept where nothing can be written
        return
    for folder in folders:
        unsent = Spool(folder.name)
        if folder.suffix == REFUSED or not unsent.claim():
            continue
        try:
            log_line(f"Sent what run {unsent.run_id} could not log: {unsent.send()}.")
        except TrackingError as refused:
            log_line(str(refused))
        except Exception:  # away again, which this run finds out by itself
            unsent.release()


def files_in(folder: Path) -> list[Path]:
    """All files, at any depth; none where there is no folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def artifact_folder(file: Path, root: Path, below: str = "") -> str | None:
    """Where a file of the folder `root` goes among the artifacts; None is their top."""
    folder = posixpath.join(below, file.parent.relative_to(root).as_posix())
    return posixpath.normpath(folder).removeprefix(".") or None


def upload_seconds(file: Path) -> int:
    """How long a server may take for a file before that counts as an outage."""
    return SHORT_SECONDS + file.stat().st_size // SLOWEST_UPLOAD


def _spool_folder() -> Path:
    return cache_folder() / "unsent"


def _lock_of(folder: Path) -> FileLock:
    return FileLock(folder / "lock", thread_local=False)
