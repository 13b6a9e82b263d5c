"""A prepared comparison of runs in the MLflow UI: a saved chart view, and its address.

MLflow 3.17 stores such views in tags of the experiment, in an undocumented format. The UI's sources
define the format (`savedViewEnvelope.ts`, `runs-charts.types.ts`, `ExperimentPageUIState.tsx`) and
fill in defaults, so the state here has only what differs from the defaults. Only this module writes
such views; if that fails, a warning is logged and the run goes on.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence

import mlflow
from mlflow.exceptions import MlflowException

from embedlab.tracking.store import CLASSIC_UI, safe_first_line

TAG = "mlflow.sharedViewState"
_SECTION = "comparison"
RUNS_SHOWN = 10


def line_chart(
    title: str, metrics: Sequence[str], log_scale: bool = False, n_runs: int = RUNS_SHOWN
) -> dict:
    """Metrics by epoch, one line per run and metric, for the first `n_runs` runs."""
    return _chart(
        "LINE",
        title,
        runsCountToCompare=n_runs,
        metricKey=metrics[0],
        selectedMetricKeys=list(metrics),
        scaleType="log" if log_scale else "linear",
        useGlobalXaxisKey=True,
        useGlobalLineSmoothing=True,  # none
    )


def bar_chart(title: str, metric: str, n_runs: int = RUNS_SHOWN) -> dict:
    """A bar chart of one metric: one bar per run."""
    return _chart("BAR", title, runsCountToCompare=n_runs, metricKey=metric)


def parallel_chart(title: str, params: Sequence[str], metrics: Sequence[str]) -> dict:
    """Parallel coordinates: one line per run, through its parameters to its metrics."""
    return _chart("PARALLEL", title, selectedParams=list(params), selectedMetrics=list(metrics))


def image_chart(title: str, key: str) -> dict:
    """The images that were logged under `key`, with a slider over the epochs."""
    return _chart("IMAGE", title, imageKeys=[key], runsCountToCompare=RUNS_SHOWN)


def save_view(
    experiment_id: str,
    view_id: str,
    name: str,
    charts: Sequence[Mapping],
    columns: Sequence[str],
    order_by: str,
    filter_string: str,
) -> str | None:
    """Save a chart view of the experiment under `view_id`, replacing an older one.

    columns   of the table of runs: `params.x`, `metrics.y` or `tags.z`.
    order_by  a metric and ASC or DESC, as `final/cost ASC`.
    filter_string
              of the runs, in MLflow's search syntax.

    Returns the page in the UI, `#/experiments/…`; None if the view could not be saved.
    """
    metric, _, direction = order_by.partition(" ")
    section = {"uuid": _SECTION, "name": name, "display": True, "isReordered": True}
    section |= {"columns": 2, "cardHeight": 430}  # MLflow's three of 360 px are hard to read
    state = {
        "searchFilter": filter_string,
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": direction == "ASC",
        "selectedColumns": [column.replace(".", ".`", 1) + "`" for column in columns],
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": [
            {**chart, "uuid": f"{view_id}-{number}"} for number, chart in enumerate(charts)
        ],
        "compareRunSections": [section],
        "isAccordionReordered": True,  # else the sections are in the order of their names
    }
    now = int(time.time() * 1000)
    view = {"name": name, "createdAt": now, "updatedAt": now, "state": json.dumps(state)}
    try:
        mlflow.MlflowClient().set_experiment_tag(
            experiment_id, f"{TAG}.{view_id}", json.dumps(view)
        )
    except MlflowException as error:
        logging.getLogger(__name__).warning(
            "the chart view was not saved: %s", safe_first_line(error)
        )
        return None
    query = f"viewStateShareKey={view_id}&compareRunsMode=CHART&{CLASSIC_UI}"
    return f"#/experiments/{experiment_id}/runs?{query}"


def _chart(kind: str, title: str, **options: object) -> dict:
    return {"type": kind, "displayName": title, "metricSectionId": _SECTION, **options}
