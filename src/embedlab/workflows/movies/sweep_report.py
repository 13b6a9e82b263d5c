"""The report of a comparison of optimizers: metrics, tables, figures, page and summary."""

from embedlab.movies.sweep.page import comparison_page
from embedlab.movies.sweep.plots import comparison_figures
from embedlab.movies.sweep.results import OptimizerComparison
from embedlab.movies.sweep.summary import to_markdown
from embedlab.tracking.tracked_run import TrackedRun

PAGE = "compare.html"


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
