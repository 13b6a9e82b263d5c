"""One HTML page of results from finished runs: `report.html`."""

from collections.abc import Sequence

from embedlab.cli.parser import Parser, run_main
from embedlab.cli.types import run_ids


def build_parser() -> Parser:
    parser = Parser(
        "report",
        "Make one HTML page of finished runs: test accuracies and images, costs by optimizer, "
        "recommendations side by side, their quality, and what was run. For a missing run it "
        "shows the command.",
    )
    help_text = "ids of runs, joined by commas; latest: the newest of each entry point"
    parser.add("runs", run_ids("latest", 1), "latest", help_text)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)

    from embedlab.cli.console import console
    from embedlab.tracking.lifecycle import start_run
    from embedlab.workflows.report import log_report, reported_runs

    with start_run("report", "report", {"runs": ",".join(args.runs) or "latest"}) as run:
        runs = reported_runs(run.experiment_id, args.runs)
        run.log_params_as_resolved({"runs": ",".join(item.info.run_id for item in runs.values())})
        report = log_report(run, runs)
    console.print(run.ui_instructions())
    console.print(f"Report {report}")


if __name__ == "__main__":
    run_main(main)
