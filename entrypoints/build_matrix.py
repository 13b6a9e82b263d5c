"""Ratings -> likes -> X = LᵀL, sparse and dense, logged as artifacts that `fit_embedding` reads."""

from collections.abc import Sequence

from embedlab.cli import arguments
from embedlab.cli.parser import Parser, run_main
from embedlab.cli.types import boolean

NOT_KEPT = "The matrix is too large to keep; fit_embedding needs the likes alone, which are kept."


def build_parser() -> Parser:
    parser = Parser(
        "build_matrix",
        "Count, for every two movies, the users who like both. Logs the likes, the matrix, the "
        "movie index and three figures; fit_embedding takes them by matrix=runs:/<run id>/matrix.",
    )
    arguments.add_ratings(parser, "ml-latest-small")
    arguments.add_like_rule(parser)
    arguments.add_weighting(parser)
    parser.add(
        "dense",
        boolean,
        True,
        "also make X as a dense tensor, and check it against the sparse matrix",
    )
    arguments.add_device(parser, "device of the dense tensor")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)

    from embedlab.cli.console import console
    from embedlab.datasets.movielens import locate_ratings
    from embedlab.device import choose_device
    from embedlab.formatting import counted
    from embedlab.movies import plots
    from embedlab.movies.data.cooccurrence import COUNTS_FILE, build_cooccurrence, save_sparse
    from embedlab.movies.data.likes import find_likes, save_likes
    from embedlab.movies.data.ratings import read_ratings
    from embedlab.tracking.lifecycle import start_run
    from embedlab.tracking.project import command

    with start_run("build_matrix", f"build_matrix {args.like_rule}", vars(args)) as run:
        device = choose_device(args.device)
        files = locate_ratings(args.ratings)
        ratings = read_ratings(files.path, files.name)
        run.log_dataset(ratings.name, ratings.digest, files.source, "ratings")
        likes = find_likes(ratings, args.like_rule, args.user_weight, args.item_power)
        result = build_cooccurrence(likes.weighted.matrix, device if args.dense else None)

        run.log_params(
            {
                "device": device,
                "data_digest": likes.cost_digest,
                "data/users": ratings.n_users,
                "data/movies": ratings.n_movies,
                "data/ratings": ratings.n_ratings,
                "data/likes": likes.matrix.nnz,
                **{f"data/dropped_{reason}": n for reason, n in ratings.dropped.items()},
            }
        )
        run.log_metrics(
            {
                "matrix/nonzeros": result.nonzeros,
                "matrix/density": result.density,
                "matrix/off_diagonal_squares": result.off_diagonal_squares,
                "time/sparse_seconds": result.sparse_seconds,
            }
        )
        if result.dense_seconds is not None:
            run.log_metrics({"time/dense_seconds": result.dense_seconds})
        run.log_figure(plots.plot_ratings(ratings, likes), "figures/ratings.png")
        run.log_figure(plots.plot_popularity(likes), "figures/popularity.png")
        run.log_figure(plots.plot_top_block(likes), "figures/top_block.png")
        with run.artifact_folder("matrix") as folder:
            save_likes(likes, folder)
            if result.counts is not None:
                save_sparse(result.counts, folder / COUNTS_FILE)
        summary = (
            f"{ratings}, {counted(likes.matrix.nnz, 'like')}; "
            f"{counted(result.nonzeros, 'entry', 'entries')} of the matrix other than 0 "
            f"({result.density:.1%})"
        )
        notes = [*likes.remarks, *([NOT_KEPT] if result.counts is None else [])]
        fit_command = command("fit_embedding", matrix=f"runs:/{run.id}/matrix")
        run.describe("\n\n".join([f"**{summary}**", *notes, f"Fit it: `{fit_command}`"]))
    console.print(summary, *notes, f"Fit it with  {fit_command}", run.ui_instructions(), sep="\n")


if __name__ == "__main__":
    run_main(main)
