"""Make a registered version champion by hand: a rollback, or a challenger."""

from collections.abc import Sequence

from embedlab.cli.parser import Parser, run_main
from embedlab.cli.types import model_name, nonblank, version


def build_parser() -> Parser:
    parser = Parser(
        "promote",
        "Make a registered version champion, whatever its score, and record the reason. The "
        "previous champion stays registered; the command that undoes the change is printed.",
    )
    parser.add("model_name", model_name, "movie-embedding", "the registered model")
    help_text = "a number; challenger; or previous, the version that the present champion replaced"
    parser.add("version", version, None, help_text)
    help_text = "why; it becomes a tag of the version"
    parser.add("reason", nonblank("a reason, in words"), None, help_text)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)

    from embedlab.cli.console import console
    from embedlab.tracking.lifecycle import start_run
    from embedlab.tracking.registry.versions import promote_version

    run_name = f"promote {args.model_name} {args.version}"
    with start_run("promote", run_name, vars(args)) as run:
        promotion = promote_version(args.model_name, args.version, args.reason)
        run.set_tags({"registered_model": promotion.label})
        text = "\n".join(filter(None, (str(promotion), promotion.undo)))
        run.log_text(f"{text}\n", "promotion.txt")
        console.print(text)


if __name__ == "__main__":
    run_main(main)
