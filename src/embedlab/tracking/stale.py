"""Find stale runs, which are RUNNING although their process has ended, and mark them KILLED.

A process that is killed by SIGKILL, or whose machine goes down, leaves its run RUNNING. So every
run carries the host, pid and start time of its process, and the next start on that host checks
them. A run of another host, or one that `mlflow run` made and no process adopted, is stale after
some time without new metrics; only `clean_runs` looks for these.
"""

import logging
import math
import os
import time
from dataclasses import dataclass

import mlflow
from mlflow.entities import Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PROJECT_ENTRY_POINT

from embedlab.process import has_ended, started_at, this_host
from embedlab.tracking.store import safe_first_line


def owner_tags() -> dict[str, str]:
    """The tags by which `find_stale` finds this process: host, pid, start (s since 1970)."""
    return {"host": this_host(), "pid": str(os.getpid()), "process_started": str(started_at())}


@dataclass(frozen=True)
class StaleRun:
    """A run whose process has ended, or seems to have.

    last_activity  the time of its newest metric, or of its start, in milliseconds since 1970.
    """

    run: Run
    last_activity: int
    reason: str

    def mark(self) -> None:
        """Terminate it as KILLED at its last activity, with the tags `stop_reason` and `error`."""
        client, run_id = mlflow.MlflowClient(), self.run.info.run_id
        # The run may have been closed after it was listed and before its process ended.
        if client.get_run(run_id).info.status == "RUNNING":
            tags = {"stop_reason": "died", "error": self.reason}
            client.log_batch(run_id, tags=[RunTag(key, text) for key, text in tags.items()])
            client.set_terminated(run_id, "KILLED", self.last_activity)


def mark_stale_runs(experiment_id: str) -> None:
    """Mark this project's runs of one experiment and this host whose process has ended.

    Safe in several processes at once. Never raises: after an error, the next start tries again.
    """
    try:
        for stale in find_stale(experiment_id):
            stale.mark()
    except Exception as error:  # MLflow's, the database's, or ValueError for a foreign tag
        text = "runs that died could not be marked: %s"
        logging.getLogger(__name__).warning(text, safe_first_line(error))


def find_stale(experiment_id: str, max_idle_hours: float = math.inf) -> list[StaleRun]:
    """This project's stale runs of one experiment, oldest first.

    max_idle_hours  hours without a new metric after which a run of another host or of no process
                    is stale.
    """
    running = mlflow.MlflowClient().search_runs(
        [experiment_id], "attributes.status = 'RUNNING'", order_by=["attributes.start_time ASC"]
    )
    stale = []
    for run in running:
        times = [metric.timestamp for metric in run.data.to_proto().metrics]
        last_activity = max([run.info.start_time, *times])
        idle_hours = time.time() / 3600 - last_activity / 3_600_000
        reason = _stale_reason(run.data.tags, idle_hours, max_idle_hours)
        if reason and _is_ours(run):
            stale.append(StaleRun(run, last_activity, reason))
    return stale


def _is_ours(run: Run) -> bool:
    """Whether the run is of this project, or made by `mlflow run` and adopted by no process."""
    tags = run.data.tags
    is_untouched = MLFLOW_PROJECT_ENTRY_POINT in tags and not run.data.metrics
    return is_untouched or "entry_point" in tags or "process_started" in tags


def _stale_reason(tags: dict[str, str], idle_hours: float, max_idle_hours: float) -> str | None:
    host = tags.get("host")
    if host == this_host() and "process_started" in tags:
        pid, running_at = int(tags["pid"]), float(tags["process_started"])
        has_died = has_ended(host, pid, running_at)
        return f"its process {pid} on {host} ended without closing the run" if has_died else None
    if idle_hours < max_idle_hours:
        return None
    where = f"from its process on {host}" if host else "and no process has taken it up"
    return f"no activity for {idle_hours:,.1f} hours {where}"
