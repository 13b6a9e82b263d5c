"""Two or more finished picture runs side by side: figures, tables, and the result in words."""

from embedlab.command_line import Parser, exit_with, run_ids


def build_parser() -> Parser:
    parser = Parser(
        "compare_transfer",
        "Compare finished extract_features and finetune runs on the same test pictures: curves, "
        "accuracies with intervals, McNemar's paired test, classes, and where they differ.",
    )
    what = "ids of two or more runs, joined by commas; best: the best of each kind on the same data"
    parser.add("runs", run_ids, "best", what)
    return parser


def main(argv=None) -> None:
    args = build_parser().parse_args(argv)

    from embedlab.console import console
    from embedlab.datasets.pictures import locate_pictures
    from embedlab.tracking.finished import check_pictures, find_runs
    from embedlab.tracking.runs import start_run
    from embedlab.tracking.store import how_to_open
    from embedlab.vision import compare, figures
    from embedlab.vision.pictures import read_pictures

    given = {"runs": ",".join(args.runs) or "best"}
    with start_run("compare_transfer", "compare_transfer", given) as run:
        found = find_runs(run.experiment_id, args.runs)
        found.sort(key=lambda item: -item.contender.test.is_right.mean())
        contenders = [item.contender for item in found]
        pictures = read_pictures(locate_pictures(found[0].dataset))
        check_pictures(found, pictures.digest)
        run.set_tags({"compared_runs": ",".join(item.id for item in found)})
        run.log_resolved({"runs": ",".join(item.id for item in found)})

        classes, name = pictures.classes, pictures.name
        runs = compare.run_table(contenders, classes)
        recall = compare.recall_table(contenders, classes)
        pairs = compare.pair_table(contenders)
        run.log_table(runs, "tables/runs.json")
        run.log_table(pairs, "tables/pairs.json")
        run.log_table(recall.reset_index(), "tables/recall.json")
        curves = {item.contender.name: item.steps for item in found}
        run.log_figure(figures.curves(curves, name), "figures/curves.png")
        run.log_figure(figures.accuracies(runs, name), "figures/accuracy.png")
        run.log_figure(figures.class_differences(recall, name), "figures/classes.png")
        best, *others = contenders
        for number, other in enumerate(others, start=1):
            figure = figures.disagreements(
                compare.only_right(best.test, other.test),
                compare.only_right(other.test, best.test),
                (best.name, other.name),
                pictures,
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
        words = compare.in_words(contenders, classes, name)
        run.log_text(words, "summary.md")
        run.set_tags({"mlflow.note.content": words})
    console.print(words)
    console.print(how_to_open(run.experiment_id, run.id))


if __name__ == "__main__":
    exit_with(main)
