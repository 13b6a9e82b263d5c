"""One optimizer, one learning rate, or the exact solver -> a movie embedding, logged and served."""

from embedlab.command_line import (
    Parser,
    add_device,
    add_like_rule,
    add_ratings,
    add_registration,
    auto_or_positive_number,
    boolean,
    exit_with,
    one_of,
    positive_number,
    whole_number,
)
from embedlab.movies.fit import DEFAULT_LR, OBJECTIVES, OPTIMIZERS, FitOptions, with_gap
from embedlab.step import to_each
from embedlab.tracking.promotion import Score


def build_parser() -> Parser:
    rates = ", ".join(f"{name} {lr:g}" for name, lr in DEFAULT_LR.items())
    parser = Parser(
        "fit_embedding",
        "Fit a vector to every movie so that v_i·v_j is near the number of users who like both. "
        "Logs the cost of every epoch, the curve, the vectors and a model that can be served.",
    )
    parser.add("matrix", str, "", "runs:/<run id>/matrix of build_matrix, instead of ratings")
    add_ratings(parser, "ml-latest-small")
    add_like_rule(parser)
    parser.add("optimizer", one_of(*OPTIMIZERS), "adam", "the solver; exact works by eigenpairs")
    parser.add("lr", auto_or_positive_number, "auto", f"learning rate; auto: {rates}")
    parser.add("dim", whole_number(1, 100_000), 100, "length of a movie's vector")
    parser.add("epochs", whole_number(1), 150, "updates of all vectors (exact: rounds at most)")
    parser.add("objective", one_of(*OBJECTIVES), "factored", "dense is the published form")
    parser.add("init_scale", positive_number, 1.0, "standard deviation of the random start")
    parser.add("seed", whole_number(0), 0, "of the random start")
    add_device(parser, "where the fit runs")
    parser.add("reference", boolean, False, "also solve exactly, and log every epoch's gap to it")
    add_registration(parser, "movie-embedding")
    return parser


def main(argv=None) -> None:
    args = build_parser().parse_args(argv)
    options = FitOptions(
        args.optimizer, args.lr, args.dim, args.epochs, args.objective, args.init_scale
    )

    from embedlab.console import console, epochs_shown
    from embedlab.datasets.movielens import locate_ratings
    from embedlab.device import choose_device
    from embedlab.movies.figures import cost_curve
    from embedlab.movies.likes import find_likes, load_likes
    from embedlab.movies.ratings import read_ratings
    from embedlab.movies.solve import solve, solve_reference
    from embedlab.tracking.models import log_movie_model
    from embedlab.tracking.registry import register
    from embedlab.tracking.runs import start_run
    from embedlab.tracking.store import fetch_artifacts

    given = vars(args) | {"lr": options.lr}
    with start_run("fit_embedding", f"fit {options.label}", given) as run:
        device = choose_device(args.device)
        if args.matrix:
            source, likes = args.matrix, load_likes(fetch_artifacts(args.matrix))
        else:
            files = locate_ratings(args.ratings)
            source = files.source
            likes = find_likes(read_ratings(files.path, files.name), args.like_rule)
        run.log_dataset(f"{likes.name} likes", likes.digest, source, "training")
        run.log_params({"ratings": likes.name, "like_rule": likes.like_rule})
        run.log_params({"device": device, "data_digest": likes.digest})

        reference, steps = None, []
        if args.reference:
            reference = solve_reference(likes.matrix, options.dim, args.seed).cost
            run.log_metrics({"reference/cost": reference})
        with epochs_shown(f"fit {options.label}", options.epochs, "train/cost") as show:
            on_step = with_gap(to_each(steps.append, run.record, show), reference)
            try:
                fit = solve(likes.matrix, options, args.seed, device, on_step)
            finally:  # the curve of a fit that was stopped, too
                title = f"{likes.name}: cost, dim {options.dim}"
                figure = cost_curve({options.label: steps}, title, reference)
                run.log_figure(figure, "figures/cost.png")
        fit.raise_if_diverged(options)
        run.log_metrics({"final/cost": fit.cost, "time/fit_seconds": fit.seconds}, fit.epochs)

        about = likes.about() | {"optimizer": options.label, "dim": options.dim, "cost": fit.cost}
        movies = likes.movies.assign(likes=likes.popularity)
        model_uri = log_movie_model(run, fit.embedding, movies, about)
        console.print(f"{options.label}: cost {fit.cost:,.0f} after {fit.epochs} epochs")
        if args.register:
            score = Score("cost", fit.cost)
            entry = register(model_uri, args.model_name, likes.digest, score, args.promote)
            run.set_tags({"registered_model": entry.label})
            console.print(str(entry))
        model = entry.uri if args.register else f"runs:/{run.id}/model"
        console.print(f"Ask it with  -e recommend -P model={model} -P title='Toy Story'")


if __name__ == "__main__":
    exit_with(main)
