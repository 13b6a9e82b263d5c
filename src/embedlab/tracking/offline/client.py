"""An MLflow client for one run, whose writes never hold up a fit for long.

While the tracking store is unavailable, writes go to the run's spool, a local folder. After a pause
of 5 s, later of up to 60 s, the next write first asks the store with a short request whether it is
available again; if so, the spool is sent.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking.fluent import run_id_to_system_metrics_monitor

from embedlab.errors import StoreUnavailableError
from embedlab.tracking.offline.retry import (
    SHORT_TIMEOUT,
    log_line,
    outage_reason,
    retry_until_available,
    short_requests,
)
from embedlab.tracking.offline.spool import Spool, upload_timeout
from embedlab.tracking.store import store_address

FIRST_PROBE_PAUSE, MAX_PROBE_PAUSE = 5.0, 60.0  # seconds between two attempts
PROBE_TIMEOUT = 3  # seconds

T = TypeVar("T")


class BufferedClient(mlflow.MlflowClient):
    """A client whose `log_…` methods and `set_tag` write, or spool what cannot be written now."""

    def __init__(self, run_id: str):
        super().__init__()
        self._run_id, self._spool = run_id, Spool(run_id)
        self._had_outage = self._user_was_told = False
        self._next_try = self._pause = 0.0

    def log_batch(
        self,
        run_id: str,
        metrics: Sequence[Metric] = (),
        params: Sequence[Param] = (),
        tags: Sequence[RunTag] = (),
        synchronous: bool | None = None,
    ) -> None:
        self._send_or_spool(
            partial(super().log_batch, run_id, metrics=metrics, params=params, tags=tags),
            partial(self._spool.add, metrics, params, tags),
        )

    def set_tag(
        self, run_id: str, key: str, value: object, synchronous: bool | None = None
    ) -> None:
        self.log_batch(run_id, tags=[RunTag(key, str(value))])

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None = None) -> None:
        self._log_files(super().log_artifact, local_path, artifact_path)

    def log_artifacts(self, run_id: str, local_dir: str, artifact_path: str | None = None) -> None:
        self._log_files(super().log_artifacts, local_dir, artifact_path)

    def _log_files(self, write: Callable, local: str | Path, artifact_path: str | None) -> None:
        self._send_or_spool(
            partial(write, self._run_id, str(local), artifact_path),
            partial(self._spool.add_files, Path(local), artifact_path or ""),
            upload_timeout(Path(local)),
        )

    def retry_now(self) -> None:
        """Let the next write ask without a pause whether the store is available again."""
        self._next_try = 0.0

    def _send_or_spool(
        self, send: Callable[[], object], spool: Callable[[], None], timeout: int = SHORT_TIMEOUT
    ) -> None:
        """Call `send`, or `spool` if the store is unavailable or was when it was last probed.

        If the pause since the last probe is over, the spool is sent first.
        """
        if not self._spool.is_open or time.monotonic() >= self._next_try:
            reason = self._outage_during(self._send_spool) if self._spool.is_open else None
            reason = reason or self._outage_during(send, timeout)
            if reason is None:
                return
            if not self._spool.is_open:
                self._had_outage, self._pause = True, FIRST_PROBE_PAUSE
                log_line(
                    f"MLflow at {store_address()} is unavailable ({reason}). The run goes on; what "
                    f"it logs is kept in {self._spool.folder} until MLflow is available again."
                )
            self._next_try = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, MAX_PROBE_PAUSE)
        spool()

    def _send_spool(self) -> None:
        with short_requests(PROBE_TIMEOUT, retries=0):
            self.get_run(self._run_id)
        if self._spool.is_open:
            log_line(f"MLflow at {store_address()} is available again: {self._spool.send()} sent.")

    @staticmethod
    def _outage_during(send: Callable[[], object], timeout: int = SHORT_TIMEOUT) -> str | None:
        """Call `send`; return None if it has succeeded, else why the store is unavailable."""
        try:
            with short_requests(timeout):
                send()
        except Exception as error:
            if reason := outage_reason(error):
                return reason
            raise
        return None

    def after_spool(self, do: Callable[[], T]) -> T:
        """Send the spool, then call `do`, until both succeed; return the result of `do`.

        Raises StoreUnavailableError after `retry.wait_limit`.
        """

        def send_and_do() -> T:
            self._send_spool()
            return do()

        try:
            return retry_until_available(send_and_do)
        except StoreUnavailableError as error:
            self._user_was_told = True
            raise StoreUnavailableError(f"{error}; {self._spooled_summary()}") from error

    def end_run(self, status: str) -> None:
        """End MLflow's active run, or spool its status and say so."""
        # The thread of the system metrics may sleep in one of MLflow's retries: do not wait for it.
        if self._had_outage:
            run_id_to_system_metrics_monitor.pop(self._run_id, None)
        if self._outage_during(partial(mlflow.end_run, status)) is not None:
            self._spool.add_status(status)
        if self._spool.is_open:
            if not self._user_was_told:
                log_line(f"MLflow at {store_address()} is unavailable; {self._spooled_summary()}")
            self._spool.release()

    def _spooled_summary(self) -> str:
        return (
            f"what this run could not log is kept in {self._spool.folder}, and the next entry "
            "point that starts on this machine with this store sends it."
        )
