"""One optimizer, one learning rate, or the exact solver -> a movie embedding, logged as a model."""

from collections.abc import Sequence

from embedlab.cli import arguments
from embedlab.cli.parser import Parser, exit_with
from embedlab.cli.types import auto_or, boolean, integer, one_of, positive_number
from embedlab.distributed.env import is_main_process
from embedlab.distributed.launch import launch_workers
from embedlab.movies.options import DEFAULT_LR, MAPS, OPTIMIZERS, FitOptions, check_processes
from embedlab.progress import EpochRecord
from embedlab.workflows.model_facts import COST, MOVIE_METRICS, NDCG


def build_parser() -> Parser:
    rates = ", ".join(f"{name} {lr:g}" for name, lr in DEFAULT_LR.items())
    parser = Parser(
        "fit_embedding",
        "Fit a vector to every movie so that v_i·v_j is near the number of users who like both. "
        "Logs the cost of every epoch, the curve, the vectors and a model that can be served.",
    )
    arguments.add_likes(parser)
    arguments.add_weighting(parser)
    parser.add("optimizer", one_of(*OPTIMIZERS), "adam", "optimizer; exact: solved by eigenpairs")
    parser.add("lr", auto_or(positive_number), "auto", f"learning rate; auto: {rates}")
    arguments.add_fit(parser)
    parser.add("seed", integer(0), 0, "seed of the random start")
    arguments.add_device(parser, "where the fit runs")
    arguments.add_processes(parser)
    what = "map of the movies and explore.html: tsne keeps neighbours, pca is faster, none: neither"
    parser.add("embedding_map", one_of(*MAPS), "tsne", what)
    parser.add("reference", boolean, False, "also solve exactly, and log every epoch's gap to it")
    arguments.add_registration(parser, "movie-embedding")
    what = "score that versions compete by: cost, or ndcg on held-out likes (a second fit)"
    parser.add("promote_by", one_of(*MOVIE_METRICS), "cost", what)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    options = FitOptions(
        args.optimizer, args.lr, args.dim, args.epochs, args.objective, args.init_scale
    )
    check_processes(options, args.processes)
    if launch_workers("fit_embedding", args.processes, argv):
        return

    from embedlab.cli.console import console, epoch_progress, work_progress
    from embedlab.distributed.collectives import process_group
    from embedlab.movies.evaluation.evaluate import held_out_ndcg
    from embedlab.movies.evaluation.splits import check_enough_likes
    from embedlab.movies.plots import plot_fit
    from embedlab.movies.solvers.fit import fit_weighted
    from embedlab.movies.solvers.result import add_gap_metric
    from embedlab.tracking.registry.promotion import Score
    from embedlab.tracking.registry.versions import publish
    from embedlab.tracking.run import start_run
    from embedlab.wording import command
    from embedlab.workflows.models import example_title, log_movie_model
    from embedlab.workflows.movie_runs import (
        find_or_load_likes,
        fit_summary,
        log_explorer,
        movie_card,
    )

    given = vars(args) | {"lr": options.lr}
    title = f"fit {options.label}"
    with start_run("fit_embedding", title, given) as run, process_group(vars(args)) as device:
        if not is_main_process():  # rank 0 scatters the likes
            fit_weighted(None, options, args.seed, device, processes=args.processes)
            return
        likes = find_or_load_likes(run, vars(args), parser.non_default(args), console.print)
        if args.register and args.promote_by == "ndcg":
            check_enough_likes(likes.matrix)  # refused before the fit
        run.log_params({"device": device})
        reference = None
        if args.reference:
            exact = FitOptions("exact", dim=options.dim)
            reference = fit_weighted(likes.weighted, exact, args.seed, device).cost
            run.log_metrics({"reference/cost": reference})
        history: list[EpochRecord] = []
        n_epochs = None if options.optimizer == "exact" else options.epochs  # until it converges
        with epoch_progress(title, n_epochs, "train/cost") as on_progress:

            def on_epoch(record: EpochRecord) -> None:
                history.append(add_gap_metric(record, reference))
                run.log_epoch(history[-1])
                on_progress(record)

            try:
                fit = fit_weighted(
                    likes.weighted, options, args.seed, device, on_epoch, args.processes
                )
            finally:  # a stopped fit has its curve, too
                caption = f"{likes.name}: cost, dim {options.dim}"
                figure = plot_fit(history, options, caption, reference)
                run.log_figure(figure, "figures/cost.png")
        fit.raise_if_diverged(options)
        run.log_metrics({"final/cost": fit.cost, "time/fit_seconds": fit.seconds})

        about = likes.about() | {"optimizer": options.label, "dim": options.dim, "cost": fit.cost}
        model_uri = log_movie_model(run, fit.embedding, likes.table, about)
        outcome = fit_summary(fit, options, reference)
        console.print(outcome)
        with work_progress("map of the movies"):
            explorer = log_explorer(run, likes, fit, options.label, args.embedding_map)
        console.print(explorer)
        score = Score(COST, fit.cost)
        if args.register and args.promote_by == "ndcg":
            score = Score(NDCG, held_out_ndcg(likes, options, args.seed, device))
            run.log_metrics({"test/ndcg": score.value})
        card = movie_card(run, likes, fit, reference, score)
        name = args.model_name if args.register else None
        model, registered = publish(run, model_uri, card, score, name, args.promote)
        ask = command("recommend", model=model, title=example_title(likes.table))
        run.describe("\n\n".join([f"**{outcome}**", *registered, f"Ask it: `{ask}`"]))
    console.print(*registered, f"Ask it with  {ask}", run.how_to_open(), sep="\n")


if __name__ == "__main__":
    exit_with(main)
