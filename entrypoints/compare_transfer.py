"""Two or more finished image runs side by side: figures, tables, and a written summary."""

from collections.abc import Sequence

from embedlab.cli.parser import Parser, run_main
from embedlab.cli.types import run_ids


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
    from embedlab.vision.evaluation.comparison import compare_runs
    from embedlab.vision.evaluation.plots import prepare_fonts
    from embedlab.workflows.images.comparison_report import log_comparison
    from embedlab.workflows.images.finished_runs import check_images_unchanged, find_image_runs

    params = {"runs": ",".join(args.runs) or "best"}
    with start_run("compare_transfer", "compare_transfer", params) as run:
        runs = find_image_runs(run.experiment_id, args.runs)
        images = read_images(locate_images(runs[0].dataset))
        check_images_unchanged(runs, images.digest)
        for sentence in prepare_fonts(images):
            console.print(sentence)
        comparison = compare_runs(runs, images.classes)
        messages = log_comparison(run, comparison, images)
    console.print("\n".join(messages))


if __name__ == "__main__":
    run_main(main)
