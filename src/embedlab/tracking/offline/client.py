"""MLflow's client of one run, whose writes never hold up a fit for long.

While the tracking store is away they are kept in a local folder. Every few seconds, later every
minute, a short request asks whether the store is back; then all of it is sent, in order.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking.fluent import run_id_to_system_metrics_monitor

from embedlab.errors import ServerAwayError
from embedlab.tracking.offline.retry import (
    log_line,
    outage_reason,
    retry_until_available,
    short_requests,
)
from embedlab.tracking.offline.spool import Spool, artifact_folder, files_in, upload_seconds
from embedlab.tracking.store import store_address

FIRST_PAUSE, MAX_PAUSE = 5.0, 60.0
PROBE_SECONDS = 3

T = TypeVar("T")


class BufferedClient(mlflow.MlflowClient):
    """Its `log_…` methods and `set_tag` write, or keep what cannot be written now."""

    def __init__(self, run_id: str):
        super().__init__()
        self._run_id = run_id
        self._unsent = Spool(run_id)
        self._was_away = self._is_told = False
        self._next_try = self._pause = 0.0

    def log_batch(
        self,
        run_id: str,
        metrics: Sequence[Metric] = (),
        params: Sequence[Param] = (),
        tags: Sequence[RunTag] = (),
        synchronous: bool | None = None,
    ) -> None:
        entities = {"metrics": metrics, "params": params, "tags": tags}
        write = super().log_batch

        def now() -> None:
            with short_requests():
                write(run_id, **entities)

        self._send_or_spool(now, lambda: self._unsent.keep(**entities))

    def set_tag(self, run_id: str, key: str, value, synchronous: bool | None = None) -> None:
        self.log_batch(run_id, tags=[RunTag(key, str(value))])

    def log_artifact(self, run_id: str, local_path, artifact_path: str | None = None) -> None:
        file, write = Path(local_path), super().log_artifact

        def now() -> None:
            with short_requests(upload_seconds(file)):
                write(run_id, local_path, artifact_path)

        self._send_or_spool(now, lambda: self._unsent.keep_file(file, artifact_path or ""))

    def log_artifacts(self, run_id: str, local_dir, artifact_path: str | None = None) -> None:
        for file in files_in(Path(local_dir)):
            folder = artifact_folder(file, Path(local_dir), artifact_path or "")
            self.log_artifact(run_id, file, folder)

    def retry_now(self) -> None:
        """Let the next write try at once whether the store is back."""
        self._next_try = 0.0

    def _send_or_spool(self, now: Callable[[], None], later: Callable[[], None]) -> None:
        if self._unsent and not self._is_back():
            later()
        elif reason := self._outage_reason(now):
            later()
            self._was_away, self._pause = True, FIRST_PAUSE
            self._next_try = time.monotonic() + self._pause
            log_line(
                f"MLflow at {store_address()} is away ({reason}). The run goes on; what it logs is "
                f"kept in {self._unsent.folder} until MLflow is back."
            )

    def _is_back(self) -> bool:
        """Whether all that was kept has been sent; asks only when it is time to."""
        if time.monotonic() < self._next_try:
            return False
        is_back = self._outage_reason(self._send) is None
        self._pause = min(2 * self._pause, MAX_PAUSE)
        self._next_try = time.monotonic() + self._pause
        return is_back

    def _send(self) -> None:
        with short_requests(PROBE_SECONDS, retries=0):
            self.get_run(self._run_id)
        if self._unsent:
            log_line(f"MLflow at {store_address()} is back: {self._unsent.send()} sent.")

    @staticmethod
    def _outage_reason(do: Callable[[], None]) -> str | None:
        """Why the store is away; None where `do` was done."""
        try:
            do()
        except Exception as error:
            reason = outage_reason(error)
            if reason is None:
                raise
            return reason

    def retry_until_available(self, do: Callable[[], T]) -> T:
        """What `do` returns, once the store has all that was kept; while it is away, both again.

        Raises ServerAwayError where that takes longer than a run waits.
        """

        def send_and_do() -> T:
            self._send()
            return do()

        try:
            return retry_until_available(store_address(), send_and_do)
        except ServerAwayError as error:
            self._is_told = True
            raise ServerAwayError(f"{error}; {self._spooled_summary()}") from error

    def end_run(self, status: str) -> None:
        """End MLflow's active run, or keep its status and say so."""
        if self._was_away:  # the thread of the system metrics may sleep in one of MLflow's retries
            run_id_to_system_metrics_monitor.pop(self._run_id, None)

        def end() -> None:
            with short_requests():
                mlflow.end_run(status)

        if self._outage_reason(end):
            self._unsent.keep_status(status)
        if self._unsent:
            if not self._is_told:
                log_line(f"MLflow at {store_address()} is away; {self._spooled_summary()}")
            self._unsent.release()

    def _spooled_summary(self) -> str:
        return (
            f"what this run could not log is kept in {self._unsent.folder}, and the next entry "
            "point that starts on this machine with this store sends it."
        )
