"""A grid of optimizers, learning rates and seeds on the same matrix: which is best, and do the
recommendations change?"""

from collections.abc import Sequence
from functools import partial

from embedlab.cli import arguments
from embedlab.cli.parser import Parser, run_main
from embedlab.cli.types import boolean, integer, integers, nonblank, number, one_of
from embedlab.movies.options import FitOptions
from embedlab.movies.sweep import grid
from embedlab.movies.sweep.ray_backend import LAUNCHERS, RayOptions, resolve_launcher


def build_parser() -> Parser:
    parser = Parser(
        "compare_optimizers",
        "Fit the same matrix from the same start by every optimizer and learning rate, each in a "
        "child run, and by the exact solver as the yardstick; compare costs and recommendations. "
        "Children that are finished with equal parameters, data and code are not run again.",
    )
    arguments.add_likes(parser)
    arguments.add_weighting(parser)
    help_text = "optimizers, joined by commas; exact is always fitted too"
    parser.add("optimizers", grid.parse_optimizers, "adam,rmsprop,sgd,lbfgs", help_text)
    help_text = (
        "published: the course notebook's; 1,0.1 for all; adam:1,0.1/sgd:2e-5, others as published"
    )
    parser.add("learning_rates", grid.parse_rates, "published", help_text)
    parser.add("seeds", integers(0), "0", "seeds of the random starts, joined by commas")
    arguments.add_fit(parser)
    arguments.add_device(parser, "where the fits run")
    help_text = "movies to recommend for, joined by |"
    parser.add("titles", nonblank("titles"), "Apollo 13|Toy Story|Home Alone", help_text)
    parser.add("k", integer(1, 1000), 10, "length of the compared lists")
    parser.add("reuse", boolean, True, "reuse child runs that are finished already")
    help_text = "local: one fit after another, in this process; ray: many at once, as tasks of Ray"
    parser.add("launcher", one_of(*LAUNCHERS), "local", help_text)
    with_ray = partial(parser.add, only_with="launcher=ray")
    help_text = "auto, host:6379 or ray://host:10001; empty: a local Ray"
    with_ray("ray_address", str.strip, "", help_text)
    with_ray("cpus_per_fit", integer(1), 1, "cores that a fit reserves")
    with_ray("gpus_per_fit", number(0), 0.0, "GPUs that a fit reserves; 0.5: two fits share one")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    exact = FitOptions(
        "exact",
        dim=args.dim,
        epochs=args.epochs,
        objective=args.objective,
        init_scale=args.init_scale,
    )
    rates = grid.choose_rates(args.optimizers, args.learning_rates)
    ray_options = RayOptions(args.ray_address, args.cpus_per_fit, args.gpus_per_fit)
    ray = resolve_launcher(args.launcher, ray_options, args.device)

    from embedlab.cli.console import console, work_progress
    from embedlab.device import choose_device
    from embedlab.movies.sweep.convergence import choose_queries
    from embedlab.movies.sweep.results import OptimizerComparison
    from embedlab.tracking.lifecycle import start_run
    from embedlab.workflows.movies.data import find_or_load_likes
    from embedlab.workflows.movies.sweep import Sweep
    from embedlab.workflows.movies.sweep_report import (
        PAGE,
        log_comparison,
        log_overlaps,
        save_sweep_view,
    )
    from embedlab_serving.titles import TitleIndex

    params = vars(args) | {"learning_rates": grid.rates_as_text(rates)}
    with start_run("compare_optimizers", "compare_optimizers", params) as run:
        device = ray.device if ray else choose_device(args.device)
        likes = find_or_load_likes(run, vars(args), parser.non_default(args), console.print)
        run.log_params({"device": device})
        index = TitleIndex(likes.movies["title"].tolist(), likes.popularity)
        asked = index.find_all(args.titles)
        queries = choose_queries(index, likes.popularity, asked, args.k)

        with work_progress("compare optimizers") as on_progress:
            sweep = Sweep(run, likes, queries, device, args.reuse, on_progress, console.print)
            fits = sweep.fit_all(grid.fit_grid(rates, exact), args.seeds, ray)

        comparison = OptimizerComparison(fits, index, queries)
        log_overlaps(fits, comparison.overlap[0])
        summary = log_comparison(run, comparison, likes.label)
        name = f"Optimizers: {likes.label}, dim {args.dim}"
        page = save_sweep_view(run.experiment_id, sweep.tag, name, len(fits))
    console.print(summary)
    console.print(f"Watch the lists converge: {run.artifact_location(PAGE)}")
    console.print(run.ui_instructions(page))


if __name__ == "__main__":
    run_main(main)
