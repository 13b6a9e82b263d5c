"""Two or more finished image runs side by side: figures, tables, and the result in words."""

from embedlab.cli.parser import Parser, exit_with
from embedlab.cli.types import run_ids


def build_parser() -> Parser:
    parser = Parser(
        "compare_transfer",
        "Compare finished extract_features and finetune runs on the same test images: curves, "
        "accuracies with intervals, McNemar's paired test, classes, and where they differ.",
    )
    what = "ids of two or more runs, joined by commas; best: the best of each kind on the same data"
    parser.add("runs", run_ids, "best", what)
    return parser


def main(argv=None) -> None:
    args = build_parser().parse_args(argv)

    from embedlab.cli.console import console
    from embedlab.datasets.images import locate_images
    from embedlab.tracking.run import start_run
    from embedlab.tracking.store import how_to_open
    from embedlab.vision.data.images import read_images
    from embedlab.vision.evaluation import comparison as compare
    from embedlab.vision.evaluation import plots as figures
    from embedlab.workflows.finished_runs import check_images, find_runs
    from embedlab.workflows.image_runs import prepare_fonts

    given = {"runs": ",".join(args.runs) or "best"}
    with start_run("compare_transfer", "compare_transfer", given) as run:
        found = find_runs(run.experiment_id, args.runs)
        found.sort(key=lambda item: -item.contender.test.is_right.mean())
        contenders = [item.contender for item in found]
        images = read_images(locate_images(found[0].dataset))
        check_images(found, images.digest)
        for sentence in prepare_fonts(images):
            console.print(sentence)
        run.set_tags({"compared_runs": ",".join(item.id for item in found)})
        run.log_resolved({"runs": ",".join(item.id for item in found)})

        classes, name = images.classes, images.name
        runs = compare.run_table(contenders, classes)
        recall = compare.recall_table(contenders, classes)
        pairs = compare.pair_table(contenders)
        run.log_table(runs, "tables/runs.json")
        run.log_table(pairs, "tables/pairs.json")
        run.log_table(recall.reset_index(), "tables/recall.json")
        curves = {item.contender.name: item.steps for item in found}
        run.log_figure(figures.plot_curves(curves, name), "figures/curves.png")
        run.log_figure(figures.plot_accuracies(runs, name), "figures/accuracy.png")
        run.log_figure(figures.plot_class_differences(recall, name), "figures/classes.png")
        best, *others = contenders
        for number, other in enumerate(others, start=1):
            figure = figures.plot_disagreements(
                compare.only_right(best.test, other.test),
                compare.only_right(other.test, best.test),
                (best.name, other.name),
                images,
                f"{name}: where the two differ, the most confident mistakes first",
            )
            run.log_figure(figure, f"figures/disagreements_{number}.png")
        run.log_metrics(
            {
                "best/test_accuracy": runs["accuracy"][0],
                "difference/test_accuracy": pairs["difference"][0],
                "difference/p_value": pairs["p_value"][0],
            }
        )
        words = compare.to_markdown(contenders, classes, name)
        run.log_text(words, "summary.md")
        run.set_tags({"mlflow.note.content": words})
    console.print(words)
    console.print(how_to_open(run.experiment_id, run.id))


if __name__ == "__main__":
    exit_with(main)
