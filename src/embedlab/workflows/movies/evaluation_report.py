"""The report of an evaluation: metrics, table, figure and summary."""

from collections.abc import Sequence

import pandas as pd

from embedlab.movies.evaluation.candidates import WEIGHTED_EMBEDDING
from embedlab.movies.evaluation.evaluate import Evaluation, EvaluationOptions
from embedlab.movies.evaluation.plots import plot_accuracy_against_novelty
from embedlab.movies.evaluation.summary import to_markdown
from embedlab.tracking.tracked_run import TrackedRun


def log_evaluations(
    run: TrackedRun,
    evaluations: Sequence[Evaluation],
    table: pd.DataFrame,
    data: str,
    options: EvaluationOptions,
    left_out: Sequence[str],
) -> str:
    """Log the results of all candidates; returns the summary.

    table     from `result_table`.
    data      the name of the data set.
    left_out  candidates that are left out, with the reason.
    """
    run.log_table(table, "tables/contestants.json")
    title = f"{data}: accuracy against novelty"
    figure = plot_accuracy_against_novelty(evaluations, table, title, options.k)
    run.log_figure(figure, "figures/trade.png")
    for evaluation in evaluations:
        means = evaluation.test_metrics.means()
        slug = "_".join(evaluation.name.lower().replace(",", "").replace("-", "_").split())
        run.log_metrics({f"{slug}/test_{name}": value for name, value in means.items()})
        if evaluation.name == WEIGHTED_EMBEDDING:
            run.log_metrics({f"test/{name}": value for name, value in means.items()})
            run.log_metrics({"val/hit_rate": evaluation.val_hit_rate})
            chosen = {**evaluation.settings, "score": evaluation.scorer}
            run.log_params({f"chosen_{name}": value for name, value in chosen.items()})
    summary = to_markdown(table, data, options, left_out)
    run.log_text(summary, "summary.md")
    run.describe(summary)
    return summary
