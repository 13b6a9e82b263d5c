"""Recommend the movies nearest to given titles, from a registered embedding."""

from collections.abc import Sequence

from embedlab.cli.parser import Parser, run_main
from embedlab.cli.types import boolean, integer, nonblank, one_of

TITLES_IN_DESCRIPTION = 5


def build_parser() -> Parser:
    parser = Parser(
        "recommend", "Print the movies that are nearest to a movie, and log them as a table."
    )
    help_text = "a movie as people type it; several, joined by |, give one blended list"
    parser.add("title", nonblank("a movie's title"), "Apollo 13", help_text)
    help_text = (
        "the model to ask: models:/<name>@<alias>, models:/<name>/<version>, runs:/<id>/model"
    )
    parser.add("model", nonblank("a model's URI"), "models:/movie-embedding@champion", help_text)
    parser.add("k", integer(1, 1000), 10, "how many recommendations")
    help_text = (
        "dot: inner product, which favours popular movies; cosine: independent of popularity"
    )
    parser.add("score", one_of("dot", "cosine"), "dot", help_text)
    parser.add("include_self", boolean, False, "keep the query movies in the list")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)

    from embedlab.cli.console import as_text, console, recommendation_table
    from embedlab.formatting import escape_markdown
    from embedlab.tracking.lifecycle import start_run
    from embedlab.workflows.movies.recommend import load_model, query

    with start_run("recommend", f"recommend {args.title}", vars(args)) as run:
        params = {"k": args.k, "score": args.score, "include_self": args.include_self}
        answer = query(load_model(args.model), [args.title], params)
        run.log_table(answer, "recommendations.json")
        table = recommendation_table(answer, args.score)
        run.log_text(as_text(table), "recommendations.txt")
        titles = answer["title"][:TITLES_IN_DESCRIPTION]
        top = "".join(f"\n1. {escape_markdown(title)}" for title in titles)
        run.describe(f"**{escape_markdown(str(table.title))}**\n{top}")
    console.print(table)


if __name__ == "__main__":
    run_main(main)
