"""One optimizer, one learning rate, or the exact solver -> a movie embedding, logged as a model."""

from collections.abc import Sequence

from embedlab.cli import arguments
from embedlab.cli.parser import Parser, run_main
from embedlab.cli.types import auto_or, boolean, integer, one_of, positive_number
from embedlab.distributed.env import is_main_process
from embedlab.distributed.launch import launch_workers
from embedlab.movies.options import (
    DEFAULT_LR,
    MOVIE_MAPS,
    OPTIMIZERS,
    REFERENCE_ROUNDS,
    FitOptions,
    check_processes,
)
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
    help_text = (
        "map of the movies and explore.html: tsne keeps neighbours, pca is faster, none: neither"
    )
    parser.add("embedding_map", one_of(*MOVIE_MAPS), "tsne", help_text)
    parser.add(
        "reference",
        boolean,
        False,
        "also run the exact solver, and log every epoch's gap to its cost",
    )
    arguments.add_registration(parser, "movie-embedding")
    help_text = "score that versions compete by: cost, or ndcg on held-out likes (a second fit)"
    metrics = one_of(*MOVIE_METRICS)
    parser.add("promote_by", metrics, "cost", help_text, only_with="register=true")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    options = FitOptions(
        optimizer=args.optimizer,
        lr=args.lr,
        dim=args.dim,
        epochs=args.epochs,
        objective=args.objective,
        init_scale=args.init_scale,
    )
    check_processes(options, args.processes)
    if launch_workers("fit_embedding", args.processes, argv):
        return

    from embedlab.cli.console import console, epoch_progress, work_progress
    from embedlab.distributed.collectives import process_group
    from embedlab.movies.evaluation.evaluate import held_out_ndcg
    from embedlab.movies.evaluation.splits import check_enough_likes
    from embedlab.movies.solvers.fit import fit_likes, join_fit
    from embedlab.tracking.lifecycle import start_run
    from embedlab.tracking.registry.promotion import PromotionScore
    from embedlab.workflows.movies import fit_report
    from embedlab.workflows.movies.data import find_or_load_likes

    params = vars(args) | {"lr": options.lr}
    run_name = f"fit {options.label}"
    with (
        start_run("fit_embedding", run_name, params) as run,
        process_group(vars(args)) as device,
    ):
        if not is_main_process():  # rank 0 scatters the likes
            join_fit(options, args.seed, device)
            return
        likes = find_or_load_likes(run, vars(args), parser.non_default(args), console.print)
        if args.register and args.promote_by == "ndcg":
            check_enough_likes(likes.matrix)  # refused before the fit
        run.log_params({"device": device})
        reference = None
        if args.reference:
            exact = FitOptions("exact", dim=options.dim, epochs=REFERENCE_ROUNDS)
            exact_fit = fit_likes(likes.weighted, exact, args.seed, device)
            if exact_fit.hit_max_rounds(exact):
                console.print(fit_report.fit_as_text(exact, exact_fit))
            reference = exact_fit.cost
            run.log_metrics({"reference/cost": reference})
        caption = f"{likes.label}: cost, dim {options.dim}"
        n_epochs = None if options.is_exact else options.epochs  # until it converges
        with (
            epoch_progress(run_name, n_epochs, "train/cost") as show,
            fit_report.epoch_log(run, options, caption, reference, show) as on_epoch,
        ):
            is_sharded = args.processes > 1
            fit = fit_likes(likes.weighted, options, args.seed, device, on_epoch, is_sharded)
        fit.raise_if_diverged(options)

        fitted = fit_report.FittedEmbedding(likes, options, fit, reference)
        model_uri = fit_report.log_fit(run, fitted)
        console.print(str(fitted))
        with work_progress("map of the movies"):
            explorer = fit_report.log_explorer(run, fitted, args.embedding_map)
        console.print(explorer)
        score = PromotionScore(COST, fit.cost)
        if args.register and args.promote_by == "ndcg":
            score = PromotionScore(NDCG, held_out_ndcg(likes, options, args.seed, device))
            run.log_metrics({"test/ndcg": score.value})
        messages = fit_report.publish_fit(run, fitted, model_uri, score, params)
    console.print("\n".join(messages))


if __name__ == "__main__":
    run_main(main)
