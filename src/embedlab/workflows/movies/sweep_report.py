"""The report of a comparison of optimizers: tables, figures, page, summary, chart view."""

import time
from collections.abc import Sequence

import mlflow
import numpy as np
from mlflow.entities import Metric, RunTag

from embedlab.movies.sweep.page import comparison_page
from embedlab.movies.sweep.plots import comparison_figures, run_colours
from embedlab.movies.sweep.results import OptimizerComparison, SweepFit
from embedlab.movies.sweep.summary import to_markdown
from embedlab.tracking.charts import bar_chart, line_chart, parallel_chart, save_view
from embedlab.tracking.tracked_run import TrackedRun

PAGE = "compare.html"
LOG_LR, LOG_GAP = "log10_lr", "final/log10_gap"  # parallel coordinates have no logarithmic axis


def log_comparison(run: TrackedRun, comparison: OptimizerComparison, data: str) -> str:
    """Log a comparison of fits of `data`, the name of a data set; returns its summary."""
    exact = comparison.exact
    run.log_metrics({"reference/cost": exact.result.cost, "fits": len(comparison.fits)})
    run.log_metrics(comparison.best_metrics())
    run.log_table(comparison.fit_table(), "tables/fits.json")
    run.log_table(comparison.pair_table(), "tables/overlap.json")
    run.log_table(comparison.recommendation_table(), "tables/recommendations.json")
    caption = f"{data}, dim {exact.options.dim}"
    for name, figure in comparison_figures(comparison, caption).items():
        run.log_figure(figure, f"figures/{name}.png")
    run.log_text(comparison_page(comparison, caption), PAGE)
    summary = to_markdown(comparison, data)
    run.log_text(summary, "summary.md")
    run.describe(summary)
    return summary


def log_overlaps(fits: Sequence[SweepFit], overlap: np.ndarray) -> None:
    """Log each child's overlap with the exact solver's lists, (n_fits,), and its colour."""
    client = mlflow.MlflowClient()
    for fit, value, colour in zip(fits, overlap, run_colours(fits), strict=True):
        now = int(time.time() * 1000)
        metrics = [Metric("final/overlap", value, now, 0)] if np.isfinite(value) else []
        tags = [RunTag("mlflow.runColor", colour)]
        client.log_batch(fit.run_id, metrics=metrics, tags=tags)


def save_sweep_view(experiment_id: str, tag: str, name: str, n_fits: int) -> str | None:
    """Save the charts that compare the child runs with this tag.

    Returns their page in the UI, `#/experiments/…`; None if they could not be saved.
    """
    at_random = "Overlap with the exact lists, movies at random"
    axes = ["optimizer", LOG_LR], [LOG_GAP, "final/overlap"]
    return save_view(
        experiment_id,
        tag,
        name,
        charts=[
            line_chart("Cost by epoch", ["train/cost"], log_scale=True, n_runs=n_fits),
            line_chart("Above the exact cost", ["train/gap"], log_scale=True, n_runs=n_fits),
            line_chart(at_random, ["train/overlap_random"], n_runs=n_fits),
            parallel_chart("Optimizer, rate, gap, overlap", *axes),
            bar_chart("Overlap with the exact solver's top list", "final/overlap", n_fits),
        ],
        columns=[
            *(f"params.{key}" for key in ("optimizer", "lr", "seed")),
            *(f"metrics.final/{key}" for key in ("cost", "gap", "overlap")),
            "metrics.time/fit_seconds",
            "tags.stop_reason",
        ],
        order_by="final/cost ASC",
        filter_string=f"tags.{tag} IS NOT NULL",
    )
