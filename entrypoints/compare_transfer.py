"""Two or more finished image runs side by side: figures, tables, and a written summary."""

from collections.abc import Sequence

from embedlab.cli.parser import Parser, run_main
from embedlab.cli.types import run_ids

PAGE = "images.html"


def build_parser() -> Parser:
    parser = Parser(
        "compare_transfer",
        "Compare finished extract_features and finetune runs on the same test images: curves, "
        "accuracies with intervals, McNemar's paired test, classes, and where they differ.",
    )
    help_text = (
        "ids of two or more runs, joined by commas; best: the best of each kind on the same data"
    )
    parser.add("runs", run_ids("best", 2), "best", help_text)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)

    from embedlab.cli.console import console
    from embedlab.datasets.image_source import locate_images
    from embedlab.tracking.lifecycle import start_run
    from embedlab.vision.data.images import read_images
    from embedlab.vision.evaluation import plots
    from embedlab.vision.evaluation.comparison import compare_runs, right_only_by
    from embedlab.vision.evaluation.page import images_page
    from embedlab.workflows.images.finished_runs import check_images_unchanged, find_image_runs

    params = {"runs": ",".join(args.runs) or "best"}
    with start_run("compare_transfer", "compare_transfer", params) as run:
        runs = find_image_runs(run.experiment_id, args.runs)
        images = read_images(locate_images(runs[0].dataset))
        check_images_unchanged(runs, images.digest)
        for sentence in plots.prepare_fonts(images):
            console.print(sentence)
        name = images.name
        comparison = compare_runs(runs, images.classes)
        best, *others = comparison.runs
        ids = ",".join(item.id for item in comparison.runs)
        run.set_tags({"compared_runs": ids})
        run.log_params_as_resolved({"runs": ids})

        run.log_table(comparison.table, "tables/runs.json")
        run.log_table(comparison.pairs, "tables/pairs.json")
        run.log_table(comparison.recall.reset_index(), "tables/recall.json")
        curves = {item.name: (item.history, item.best_epoch) for item in comparison.runs}
        run.log_figure(plots.plot_curves(curves, name), "figures/curves.png")
        run.log_figure(plots.plot_accuracies(comparison.table, name), "figures/accuracy.png")
        classes = plots.plot_class_differences(comparison.recall, best.predictions.labels, name)
        run.log_figure(classes, "figures/classes.png")
        for i, other in enumerate(others, start=1):
            sides = (
                right_only_by(best.predictions, other.predictions),
                right_only_by(other.predictions, best.predictions),
            )
            if not any(len(side.rows) for side in sides):
                continue
            title = f"{name}: where the two differ, the most confident mistakes first"
            figure = plots.plot_disagreements(*sides, (best.name, other.name), images, title)
            run.log_figure(figure, f"figures/disagreements_{i}.png")
        if page := images_page(comparison.runs, images):
            run.log_text(page, PAGE)
        run.log_metrics(
            {
                "best/test_accuracy": comparison.table["accuracy"][0],
                "difference/test_accuracy": comparison.pairs["difference"].iloc[0],
                "difference/p_value": comparison.pairs["p_value"].iloc[0],
            }
        )
        summary = comparison.to_markdown(name)
        run.log_text(summary, "summary.md")
        run.describe(summary)
    console.print(summary)
    if page:
        console.print(f"Images of every confusion: {run.artifact_location(PAGE)}")
    console.print(run.ui_instructions())


if __name__ == "__main__":
    run_main(main)
