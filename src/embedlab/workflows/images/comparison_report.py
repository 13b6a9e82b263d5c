"""The report of a comparison of classifiers: metrics, tables, figures, page and summary."""

from embedlab.tracking.tracked_run import TrackedRun
from embedlab.vision.data.images import ImageDataset
from embedlab.vision.evaluation import plots
from embedlab.vision.evaluation.comparison import Comparison, right_only_by
from embedlab.vision.evaluation.page import images_page

PAGE = "images.html"


def log_comparison(run: TrackedRun, comparison: Comparison, images: ImageDataset) -> list[str]:
    """Log a comparison of runs on these images; returns what to tell the user."""
    runs, name = comparison.runs, images.name
    ids = ",".join(item.id for item in runs)
    run.set_tags({"compared_runs": ids})
    run.log_params_as_resolved({"runs": ids})
    run.log_metrics(
        {
            "best/test_accuracy": comparison.table["accuracy"][0],
            "difference/test_accuracy": comparison.pairs["difference"].iloc[0],
            "difference/p_value": comparison.pairs["p_value"].iloc[0],
        }
    )
    run.log_table(comparison.table, "tables/runs.json")
    run.log_table(comparison.pairs, "tables/pairs.json")
    run.log_table(comparison.recall.reset_index(), "tables/recall.json")
    log_figures(run, comparison, images)
    summary = comparison.to_markdown(name)
    run.log_text(summary, "summary.md")
    run.describe(summary)
    messages = [summary]
    if page := images_page(runs, images):
        run.log_text(page, PAGE)
        messages.append(f"Images of every confusion: {run.artifact_location(PAGE)}")
    return [*messages, run.ui_instructions()]


def log_figures(run: TrackedRun, comparison: Comparison, images: ImageDataset) -> None:
    """Log curves, accuracies, classes, and for each other run where it differs from the best."""
    best, *others = comparison.runs
    curves = {item.name: (item.history, item.best_epoch) for item in comparison.runs}
    run.log_figure(plots.plot_curves(curves, images.name), "figures/curves.png")
    run.log_figure(plots.plot_accuracies(comparison.table, images.name), "figures/accuracy.png")
    labels = best.predictions.labels
    classes = plots.plot_class_differences(comparison.recall, labels, images.name)
    run.log_figure(classes, "figures/classes.png")
    title = f"{images.name}: where the two differ, the most confident mistakes first"
    for i, other in enumerate(others, start=1):
        first = right_only_by(best.predictions, other.predictions)
        second = right_only_by(other.predictions, best.predictions)
        if len(first.rows) or len(second.rows):
            names = best.name, other.name
            figure = plots.plot_disagreements(first, second, names, images, title)
            run.log_figure(figure, f"figures/disagreements_{i}.png")
