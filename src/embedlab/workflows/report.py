"""`report.html`: one page that answers the project's questions from what finished runs logged.

In: runs, by entry point. Out: the text of the page. Its numbers, words and figures are those of the
runs; for a run that is missing, it shows the command.
"""

import json
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import mlflow
import pandas as pd
from markdown_it import MarkdownIt
from markupsafe import Markup
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from PIL import Image

from embedlab.errors import TrackingError
from embedlab.formatting import cost_as_text, duration
from embedlab.movies.sweep.grid import FIT_KEY, NEW_PREFIX
from embedlab.pages.render import render_page, webp_data_url
from embedlab.tracking.finished import (
    download_artifact,
    finished_run,
    has_artifact,
    newest_finished,
)
from embedlab.tracking.project import command
from embedlab.tracking.store import run_page, safe_first_line, ui_address
from embedlab.tracking.tracked_run import TrackedRun, resolved_param
from embedlab.vision.options import IMAGE_ENTRY_POINTS
from embedlab.workflows.model_facts import val_score

ENTRY_POINTS = (
    *IMAGE_ENTRY_POINTS, "compare_transfer", "compare_optimizers", "fit_embedding", "recommend",
    "evaluate_embedding",
)  # fmt: skip
WEBP_QUALITY = 88  # of figures, a fifth of PNG's bytes
PAGE = "report.html"


def reported_runs(experiment_id: str, ids: tuple[str, ...]) -> dict[str, Run]:
    """The runs with these ids, by entry point; without ids, the newest finished run of each.

    Without ids, the image runs are those that the newest `compare_transfer` compared, if there is
    one; if it compared several runs of an entry point, the best of them by validation.
    Raises TrackingError if an id is not that of a finished run of ENTRY_POINTS, or if two ids are
    those of runs of the same entry point.
    """
    return _runs_with(ids) if ids else _newest_runs(experiment_id)


def _runs_with(ids: tuple[str, ...]) -> dict[str, Run]:
    runs: dict[str, Run] = {}
    for run in (finished_run(run_id, ENTRY_POINTS) for run_id in ids):
        entry_point = run.data.tags["entry_point"]
        if FIT_KEY in run.data.tags:
            raise TrackingError(
                f"runs: {run.info.run_id} is one fit of a comparison: give the comparison's id, "
                f"{run.data.tags[MLFLOW_PARENT_RUN_ID]}."
            )
        if entry_point in runs:
            raise TrackingError(
                f"runs: expected at most one run of {entry_point}, got "
                f"{runs[entry_point].info.run_id} and {run.info.run_id}: leave one out."
            )
        runs[entry_point] = run
    return runs


def _newest_runs(experiment_id: str) -> dict[str, Run]:
    """The newest finished run of each entry point; image runs as `reported_runs` describes."""
    runs: dict[str, Run] = {}
    for entry_point in ENTRY_POINTS:
        # A comparison that was stopped is not finished, but some of its fits are.
        filter_string = f"tags.entry_point = '{entry_point}' AND tags.{FIT_KEY} IS NULL"
        if newest := newest_finished(experiment_id, filter_string):
            runs[entry_point] = newest[0]
    if comparison := runs.get("compare_transfer"):
        ids = comparison.data.tags["compared_runs"].split(",")
        compared = []
        for run_id in ids:
            with suppress(TrackingError):  # deleted since
                compared.append(finished_run(run_id, IMAGE_ENTRY_POINTS))
        # The last run of an entry point is kept: the one that validation, not the test, prefers.
        for run in sorted(reversed(compared), key=val_score):
            runs[run.data.tags["entry_point"]] = run
    return runs


def log_report(run: TrackedRun, runs: Mapping[str, Run]) -> str:
    """Log the page of these runs, by entry point, and its answers as the run's description.

    Returns where the page is.
    """
    reported = {entry_point: ReportedRun(item) for entry_point, item in runs.items()}
    run.log_text(report_page(reported), PAGE)
    run.describe(summaries(reported))
    return run.artifact_location(PAGE)


def summaries(runs: Mapping[str, "ReportedRun"]) -> str:
    """The runs' summaries as Markdown, their headings in bold."""
    lines = [f"The artifact `{PAGE}` has the answers with their figures.", ""]
    for entry_point in ("compare_transfer", "compare_optimizers", "evaluate_embedding"):
        if entry_point in runs:
            heading, *rest = runs[entry_point].text("summary.md").strip().splitlines()
            lines += [f"**{heading.strip('# ')}**", "", *rest, ""]
    return "\n".join(lines)


def report_page(runs: Mapping[str, "ReportedRun"]) -> str:
    """The page of these runs, by entry point."""
    return render_page(
        "report.html",
        runs=runs,
        command=command,
        cost_as_text=cost_as_text,
        duration=duration,
        lists=_compared_lists(runs.get("compare_optimizers")),
        made=datetime.now(UTC),
        versions=f"Python {platform.python_version()}, torch {version('torch')}, "
        f"MLflow {mlflow.__version__}, {platform.platform(terse=True)}",
    )


class ReportedRun:
    """A finished run, as the template shows it."""

    def __init__(self, run: Run):
        self.run, self.name = run, run.info.run_name
        self.metrics, self.tags = run.data.metrics, run.data.tags
        self.started = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
        self.seconds = (run.info.end_time - run.info.start_time) / 1000

    def link(self, artifact: str = "") -> str:
        """The address of the run's page in the MLflow UI, or of the page of its artifact."""
        info = self.run.info
        return f"{ui_address()}/{run_page(info.experiment_id, info.run_id, artifact)}"

    @property
    def data(self) -> str:
        """Name and digest of the data sets that the run logged."""
        inputs = self.run.inputs.dataset_inputs if self.run.inputs else []
        datasets = (item.dataset for item in inputs)
        return ", ".join(f"{dataset.name} ({dataset.digest[:8]})" for dataset in datasets)

    def param(self, name: str) -> str:
        """The value that the run used; "" if it logged none."""
        return resolved_param(self.run.data.params, name) or ""

    def summary(self, section: int) -> Markup:
        """A section of `summary.md` as HTML, by its position; each begins with a heading."""
        sections = re.split(r"^(?=### )", self.text("summary.md"), flags=re.MULTILINE)[1:]
        markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
        return Markup(markdown.render(sections[section]).replace("h3>", "h4>"))

    def text(self, path: str) -> str:
        """The content of a text artifact."""
        with self._explain_unreadable(path):
            return self._download(path).read_text(encoding="utf-8")

    def table(self, path: str) -> pd.DataFrame:
        """A table that `log_table` logged."""
        with self._explain_unreadable(path):
            return pd.DataFrame(**json.loads(self.text(path)))

    def has(self, path: str) -> bool:
        """Whether the run, which may be an older version's, has this artifact."""
        return has_artifact(self.run.info.run_id, path)

    def figures(self, prefix: str) -> list[str]:
        """Data URLs of the figures whose names begin with `prefix`, in order of their names."""
        run_id = self.run.info.run_id
        files = mlflow.MlflowClient().list_artifacts(run_id, "figures")
        paths = [file.path for file in files if file.path.startswith(f"figures/{prefix}")]
        paths.sort(key=lambda path: (len(path), path))
        urls = []
        for path in paths:
            with self._explain_unreadable(path), Image.open(self._download(path)) as image:
                urls.append(webp_data_url(image.convert("RGB"), WEBP_QUALITY))
        return urls

    def _download(self, path: str) -> Path:
        return download_artifact(f"runs:/{self.run.info.run_id}/{path}")

    @contextmanager
    def _explain_unreadable(self, path: str) -> Iterator[None]:
        """Raises TrackingError if the artifact is missing or damaged."""
        try:
            yield
        except (MlflowException, OSError, ValueError, TypeError) as error:
            run_id, entry_point = self.run.info.run_id, self.run.data.tags["entry_point"]
            raise TrackingError(
                f"runs: {path} of {run_id} cannot be read ({safe_first_line(error)}): run "
                f"{entry_point} again, or name other runs."
            ) from None


def _compared_lists(sweep: ReportedRun | None) -> dict[str, pd.DataFrame]:
    """The lists for each title asked for: one row per rank, one column per fit.

    The first column is the exact solver's, with which the others are compared; then comes each
    optimizer's best fit.
    """
    if sweep is None:
        return {}
    fits = sweep.table("tables/fits.json")
    recommended = sweep.table("tables/recommendations.json")
    finite = fits[fits["cost"].notna()]
    best = finite.loc[finite.groupby("optimizer", sort=False)["cost"].idxmin(), "fit"].tolist()
    if "fit" in recommended:  # a table of an older version has one row per fit
        wide = recommended.pivot(index=["query", "rank"], columns="fit", values="title")
        recommended = wide.reset_index()
    recommended[best] = recommended[best].map(lambda title: title.removeprefix(NEW_PREFIX))
    by_title = recommended.groupby("query", sort=False)
    return {title: rows.set_index("rank")[best] for title, rows in by_title}
