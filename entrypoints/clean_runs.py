"""Mark stale runs KILLED, and remove unfinished files from the cache."""

from collections.abc import Sequence

from embedlab.cli.parser import Parser, exit_with
from embedlab.cli.types import boolean, number


def build_parser() -> Parser:
    parser = Parser(
        "clean_runs",
        "Mark runs KILLED that are RUNNING although their process has ended, as every start does "
        "for its own experiment and host, and also those of other hosts, or of none, that give no "
        "sign of life. Remove what killed processes left half built in the cache.",
    )
    parser.add("experiment", str, "", "name of the experiment; none: that of this run")
    what = "of inactivity after which a run or file is stale if its process cannot be checked"
    parser.add("hours", number(0), 24, what)
    parser.add("dry_run", boolean, False, "only list what would be marked and removed")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)

    from embedlab.cli.console import console, plain_table
    from embedlab.datasets.cache import find_leftovers
    from embedlab.tracking.run import start_run
    from embedlab.tracking.stale import as_table, experiment_named, find_stale

    with start_run("clean_runs", "clean_runs", vars(args), marks_dead=False) as run:
        experiment = experiment_named(args.experiment) if args.experiment else run.experiment_id
        stale, leftovers = find_stale(experiment, args.hours), find_leftovers(args.hours)
        run.log_metrics({"stale/runs": len(stale), "stale/files": len(leftovers)})
        if not args.dry_run:
            for stale_run in stale:
                stale_run.mark()
            for leftover in leftovers:
                leftover.remove()
        table = as_table(stale, leftovers)
        if len(table):
            run.log_table(table, "tables/stale.json")
            console.print(plain_table("Stale runs and files", table, key="which"))
        marked, removed = ("to mark", "to remove") if args.dry_run else ("marked", "removed")
        console.print(f"Runs {marked} KILLED: {len(stale)}, files {removed}: {len(leftovers)}")


if __name__ == "__main__":
    exit_with(main)
