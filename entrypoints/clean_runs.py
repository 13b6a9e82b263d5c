"""Mark stale runs KILLED, and remove unfinished files from the cache."""

from collections.abc import Sequence

from embedlab.cli.parser import Parser, run_main
from embedlab.cli.types import boolean, number


def build_parser() -> Parser:
    parser = Parser(
        "clean_runs",
        "Mark RUNNING runs KILLED if their process has ended. Every start does "
        "this for its own experiment and host; this marks runs of other hosts, too, and runs that "
        "no process adopted, after `hours` without a new metric. Also removes files that killed "
        "processes left unfinished in the cache.",
    )
    parser.add("experiment", str, "", "name of the experiment to clean; empty: this run's")
    help_text = "hours of inactivity that make a run or file of no process on this host stale"
    parser.add("hours", number(0), 24, help_text)
    parser.add("dry_run", boolean, False, "only list what would be marked and removed")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)

    import pandas as pd

    from embedlab.cli.console import console, plain_table
    from embedlab.datasets.cache import find_unfinished
    from embedlab.tracking.lifecycle import start_run
    from embedlab.tracking.stale import find_stale
    from embedlab.tracking.store import find_experiment_id

    with start_run("clean_runs", "clean_runs", vars(args), marks_stale=False) as run:
        experiment = find_experiment_id(args.experiment) if args.experiment else run.experiment_id
        stale, unfinished = find_stale(experiment, args.hours), find_unfinished(args.hours)
        run.log_metrics({"stale/runs": len(stale), "stale/files": len(unfinished)})
        if not args.dry_run:
            for stale_run in stale:
                stale_run.mark()
            for item in unfinished:
                item.remove()
        runs = [
            (s.run.data.tags.get("entry_point", "run"), s.run.info.run_id, s.reason) for s in stale
        ]
        files = [("cache", str(item.path), item.reason) for item in unfinished]
        table = pd.DataFrame([*runs, *files], columns=["what", "which", "reason"])
        if len(table):
            run.log_table(table, "tables/stale.json")
            console.print(plain_table("Stale runs and files", table, key="which"))
        marked, removed = ("to mark", "to remove") if args.dry_run else ("marked", "removed")
        console.print(f"Runs {marked} KILLED: {len(stale)}, files {removed}: {len(unfinished)}")


if __name__ == "__main__":
    run_main(main)
