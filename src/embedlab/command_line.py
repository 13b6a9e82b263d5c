"""Arguments of the entry points: types that reject bad values with a sentence, before any work.

A parameter's name is the one of `MLproject`: `like_rule` there is `--like-rule` here.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from embedlab.datasets.movielens import check_ratings_argument
from embedlab.errors import EmbedlabError, OptionError
from embedlab.movies.like_rule import check_like_rule

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
EXIT_INTERRUPTED = 130
LARGEST = 2**31 - 1


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are OptionErrors: one sentence, no usage dump."""

    def __init__(self, entry_point: str, description: str):
        super().__init__(
            prog=f"python -m entrypoints.{entry_point}",
            description=description,
            allow_abbrev=False,
        )
        self._flags: set[str] = set()

    def add(self, name: str, type: Callable, default: object, help: str) -> None:
        """Add the parameter `name`; an empty default means 'not given'."""
        shown = str(default).lower() if isinstance(default, bool) else default
        metavar = getattr(type, "metavar", name.rpartition("_")[2].upper())
        flag = "--" + name.replace("_", "-")
        self._flags.add(flag)
        self.add_argument(
            flag,
            type=type,
            default=default,
            help=f"{help} (default: {'none' if default == '' else shown})",
            metavar=metavar,
        )

    def parse_known_args(self, args=None, namespace=None):
        """Every flag takes one value: the word after it, even where that starts with a dash."""
        joined: list[str] = []
        for word in sys.argv[1:] if args is None else args:
            if joined and joined[-1] in self._flags and word not in self._flags:
                if word == "--":  # argparse would drop it and give an empty list
                    self.error(f"argument {joined[-1]}: expected a value, got '--'")
                joined[-1] += f"={word}"
            else:
                joined.append(word)
        return super().parse_known_args(joined, namespace)

    def error(self, message: str):
        text = message.removeprefix("argument --")
        name, colon, rest = text.partition(": ")
        if text != message and colon:
            text = f"{name.replace('-', '_')}: {rest}"
        raise OptionError(f"{text} (see `{self.prog} --help`)")


def whole_number(minimum: int, maximum: int = LARGEST) -> Callable[[str], int]:
    """Type of an integer from `minimum` to `maximum`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not minimum <= value <= maximum:
            has_end = maximum < LARGEST or (value is not None and value > maximum)
            bounds = f"from {minimum}" + (f" to {maximum}" if has_end else " up")
            raise argparse.ArgumentTypeError(f"expected a whole number {bounds}, got {text!r}")
        return value

    return parse


def positive_number(text: str) -> float:
    """Type of a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def auto_or_positive_number(text: str) -> float | None:
    """Type of `auto`, which is None, or a finite number above 0."""
    if text.strip().lower() == "auto":
        return None
    try:
        return positive_number(text)
    except argparse.ArgumentTypeError:
        message = f"expected 'auto' or a number above 0, got {text!r}"
        raise argparse.ArgumentTypeError(message) from None


def boolean(text: str) -> bool:
    """Type of a yes or no, as MLproject and people write it: true, True, 1, yes, on."""
    word = text.strip().lower()
    if word not in TRUE + FALSE:
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return word in TRUE


def one_of(*choices: str) -> Callable[[str], str]:
    """Type of one of some words; the message lists them and the nearest."""

    def parse(text: str) -> str:
        if text not in choices:
            near = get_close_matches(text.lower(), choices, n=1, cutoff=0.5)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            message = f"expected one of {', '.join(choices)}; got {text!r}{hint}"
            raise argparse.ArgumentTypeError(message)
        return text

    parse.metavar = "{" + ",".join(choices) + "}"
    return parse


def words(what: str) -> Callable[[str], str]:
    """Type of a text that may not be blank; `what` names it in the message."""

    def parse(text: str) -> str:
        if not text.strip():
            raise argparse.ArgumentTypeError(f"expected {what}, got nothing")
        return text.strip()

    return parse


def model_name(text: str) -> str:
    """Type of a registered model's name, as MLflow's registry takes it."""
    if not text.strip() or "/" in text or ":" in text:
        raise argparse.ArgumentTypeError(f"expected a name without '/' and ':', got {text!r}")
    return text.strip()


def add_ratings(parser: Parser, default: str) -> None:
    """The parameter `ratings`: which data."""
    parser.add(
        "ratings",
        check_ratings_argument,
        default,
        "ml-latest-small (downloaded once), sample (built in), or the path of a folder or zip "
        "with ratings.csv and movies.csv in MovieLens' layout",
    )


def add_like_rule(parser: Parser) -> None:
    """The parameter `like_rule`: what counts as a like."""
    what = "what a like is: user_mean, user_median or threshold:<stars>"
    parser.add("like_rule", check_like_rule, "user_mean", what)


def add_device(parser: Parser, what: str) -> None:
    """The parameter `device`: where the tensors are."""
    parser.add("device", one_of("auto", "cpu", "cuda"), "auto", what)


def exit_with(main: Callable[[Sequence[str] | None], None]) -> None:
    """Run an entry point as a process: what a user can put right is one line and exit code 1."""
    try:
        main(None)
    except EmbedlabError as error:
        print(f"embedlab: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("embedlab: stopped by Ctrl-C; the run keeps what it had logged.", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # `... | head`: nobody reads on, and nothing is left to flush to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
