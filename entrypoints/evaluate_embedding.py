"""Evaluate recommendations on held-out likes: the embedding in its forms, and tuned baselines."""

from collections.abc import Sequence

from embedlab.cli import arguments
from embedlab.cli.parser import Parser, run_main
from embedlab.cli.types import integer, integers, one_of


def build_parser() -> Parser:
    parser = Parser(
        "evaluate_embedding",
        "Hold out likes, let validation choose among dims, weightings of the likes and scores of "
        "the embedding, and compare it on test likes with tuned baselines; those of implicit and "
        "gensim take part where requirements-extra.txt is installed.",
    )
    arguments.add_likes(parser)
    help_text = "lengths of a movie's vector to choose from, joined by commas"
    parser.add("dims", integers(1, 100_000), "10,20,50,100", help_text)
    parser.add("k", integer(1, 1000), 10, "movies recommended for a query")
    help_text = "what is never recommended: the query movie, or all known likes of the user"
    parser.add("exclude", one_of("query", "likes"), "query", help_text)
    help_text = "maximum number of users with queries, drawn by seed; fits learn from all"
    parser.add("users", integer(1), 20_000, help_text)
    help_text = "number of random splits; more take longer and narrow the intervals"
    parser.add("splits", integer(1, 100), 1, help_text)
    parser.add("resamples", integer(100), 2000, "bootstrap samples of the users")
    parser.add("seed", integer(0), 0, "seed of splits, samples and baselines")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)

    from embedlab.cli.console import console, work_progress
    from embedlab.movies.evaluation.candidates import WEIGHTED_EMBEDDING, build_candidates
    from embedlab.movies.evaluation.evaluate import EvaluationOptions, tune_and_evaluate
    from embedlab.movies.evaluation.summary import result_table
    from embedlab.tracking.lifecycle import start_run
    from embedlab.tracking.project import command
    from embedlab.workflows.movies.data import find_or_load_likes, fit_parameters
    from embedlab.workflows.movies.evaluation_report import log_evaluations
    from embedlab_serving.neighbours import SCORES

    with start_run("evaluate_embedding", "evaluate_embedding", vars(args)) as run:
        likes = find_or_load_likes(run, vars(args), parser.non_default(args), console.print)
        candidates, left_out = build_candidates(args.dims, args.seed, likes.matrix.shape)
        for reason in left_out:
            console.print(f"Left out: {reason}")
        options = EvaluationOptions(
            n_splits=args.splits,
            seed=args.seed,
            k=args.k,
            exclude=args.exclude,
            max_users=args.users,
        )
        with work_progress("evaluate") as on_progress:
            evaluations = tune_and_evaluate(likes.matrix, candidates, options, on_progress)
        table = result_table(evaluations, args.resamples, args.seed)
        summary = log_evaluations(run, evaluations, table, likes.name, options, left_out)
    console.print(summary)
    weighted = next(e for e in evaluations if e.name == WEIGHTED_EMBEDDING)
    weighting = {name: weighted.settings[name] for name in ("user_weight", "item_power")}
    parameters = fit_parameters(likes, vars(args), weighting)
    chosen = command("fit_embedding", **parameters, optimizer="exact", dim=weighted.settings["dim"])
    query_hint = f"Query it with score={weighted.scorer}"
    if weighted.scorer not in SCORES:
        ranks = f"Its explore.html ranks by {weighted.scorer}"
        query_hint = f"{ranks}; the served model has dot and cosine alone"
    console.print(f"Fit what validation chose with  {chosen}\n{query_hint}")
    console.print(run.ui_instructions())


if __name__ == "__main__":
    run_main(main)
