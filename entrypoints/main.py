"""Run every step on small data: images and movies, registered models, recommendations, report."""

from collections.abc import Sequence

from embedlab.cli import arguments
from embedlab.cli.parser import Parser, run_main
from embedlab.cli.types import auto_or, integer, nonblank, one_of, positive_number
from embedlab.movies.options import OPTIMIZERS, FitOptions

STEPS = (
    "build_matrix", "fit_embedding", "recommend", "compare_optimizers", "evaluate_embedding",
    "extract_features", "finetune", "compare_transfer",
)  # fmt: skip


def build_parser() -> Parser:
    parser = Parser(
        "main",
        f"Run the steps one after the other as nested runs: {', '.join(STEPS)}. fit_embedding and "
        "finetune register their models. Ends with report.html, a page of all of it. With the "
        "defaults nothing is downloaded.",
    )
    arguments.add_ratings(parser, "sample")
    parser.add("optimizer", one_of(*OPTIMIZERS), "adam", "the solver")
    parser.add("lr", auto_or(positive_number), "auto", "learning rate; auto: the optimizer's own")
    parser.add("dim", integer(1, 100_000), 20, "length of a movie's vector")
    parser.add("epochs", integer(1), 150, "updates of all vectors")
    parser.add("title", nonblank("a movie's title"), "Toy Story", "the movie to recommend for")
    arguments.add_dataset(parser, "sample")
    arguments.add_weights(parser, "none")
    arguments.add_resolution(parser, 32)
    parser.add("train_limit", integer(0), 0, "number of training images; 0 for all")
    parser.add("seed", integer(0), 0, "seed of every step")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    options = FitOptions(  # refused before any step
        optimizer=args.optimizer, lr=args.lr, dim=args.dim, epochs=args.epochs
    )

    from embedlab.cli.console import console
    from embedlab.tracking.lifecycle import start_run
    from embedlab.workflows.child_run import run_entry_point
    from embedlab.workflows.report import log_report, reported_runs

    def step(name: str, **parameters: object) -> str:
        """Run a step; returns its run id."""
        console.rule(f"{1 + STEPS.index(name)}/{len(STEPS)} {name}", style="bold")
        return run_entry_point(name, parameters)

    params = vars(args) | {"lr": options.lr}
    with start_run("main", f"main {args.ratings}", params) as run:
        matrix_run = step("build_matrix", ratings=args.ratings)
        matrix = f"runs:/{matrix_run}/matrix"
        fit_params = {name: getattr(args, name) for name in ("optimizer", "dim", "epochs", "seed")}
        fit_params |= {"lr": "auto" if args.lr is None else args.lr, "reference": "true"}
        fit_run = step("fit_embedding", **fit_params, matrix=matrix, register="true")
        movie_runs = [
            fit_run,
            step("recommend", model=f"runs:/{fit_run}/model", title=args.title),
            step(
                "compare_optimizers",
                dim=args.dim,
                epochs=args.epochs,
                titles=args.title,
                seeds=args.seed,
                matrix=matrix,
            ),
            step("evaluate_embedding", matrix=matrix, dims=args.dim, seed=args.seed),
        ]
        shared = ("dataset", "weights", "resolution", "train_limit", "seed")
        image_params = {name: getattr(args, name) for name in shared}
        # Digits must not be mirrored, and a small data set needs small batches.
        recipe = {"recipe": "fast", "augment": "crop", "flip_view": "false", "batch_size": "32"}
        image_runs = [
            step("extract_features", **image_params),
            step("finetune", **image_params, **recipe, epochs=4, register="true"),
        ]
        compared = step("compare_transfer", runs=",".join(image_runs))
        runs = reported_runs(run.experiment_id, (*image_runs, compared, *movie_runs))
        report = log_report(run, runs)
    console.rule("done")
    console.print(f"{run.ui_instructions()}\n")
    console.print(f"The answers, on one page: {report}", style="bold")


if __name__ == "__main__":
    run_main(main)
