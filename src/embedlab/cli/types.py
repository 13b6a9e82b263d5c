"""Argument types: each turns a parameter's text into a value, or refuses it with one sentence.

A refusal is an `argparse.ArgumentTypeError` that says what was expected and what was found; the
parser puts the parameter's name before it. Types that belong to one set of options are beside those
options, such as `check_like_rule`; they raise an OptionError or DataError that names the parameter.
Combinations of parameters are checked by the options dataclasses.
"""

import math
import re
from argparse import ArgumentTypeError
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Generic, TypeVar

from embedlab.distributed.env import is_distributed, world_size
from embedlab.distributed.launch import MAX_PROCESSES

Value = TypeVar("Value")
Covariant = TypeVar("Covariant", covariant=True)
MAX_INT = 2**31 - 1
BOOLEANS = dict.fromkeys(("true", "yes", "on", "1"), True)
BOOLEANS |= dict.fromkeys(("false", "no", "off", "0"), False)


@dataclass(frozen=True)
class ArgumentType(Generic[Covariant]):
    """Text -> value, and how `--help` shows the value (None: by the parameter's name)."""

    parse: Callable[[str], Covariant]
    metavar: str | None = None

    def __call__(self, text: str) -> Covariant:
        return self.parse(text)


def checked(
    convert: Callable[[str], Value], is_valid: Callable[[Value], object], expected: str
) -> ArgumentType[Value]:
    """Type of the values of `convert` that `is_valid` accepts; ValueError and KeyError refuse."""

    def parse(text: str) -> Value:
        with suppress(ValueError, KeyError):
            if is_valid(value := convert(text)):
                return value
        raise ArgumentTypeError(f"expected {expected}, got {text!r}")

    return ArgumentType(parse)


def integer(minimum: int, maximum: int = MAX_INT) -> ArgumentType[int]:
    """Type of an integer from `minimum` to `maximum`."""
    # The largest integer is named only if it is exceeded.
    end = f"to {maximum}" if maximum < MAX_INT else "up"
    from_minimum = checked(int, lambda n: n >= minimum, f"a whole number from {minimum} {end}")
    both = f"a whole number from {minimum} to {maximum}"
    return checked(from_minimum, lambda n: n <= maximum, both)


def integers(minimum: int, maximum: int = MAX_INT) -> ArgumentType[tuple[int, ...]]:
    """Type of one whole number or several, joined by commas: `96`, `64,96,128`."""
    parse = integer(minimum, maximum)
    return ArgumentType(lambda text: tuple(parse(word.strip()) for word in text.split(",")))


def number(minimum: float, maximum: float = math.inf) -> ArgumentType[float]:
    """Type of a finite number from `minimum` to `maximum`, both allowed."""
    end = f"to {maximum:g}" if maximum < math.inf else "up"
    expected = f"a number from {minimum:g} {end}"
    return checked(float, lambda x: minimum <= x <= maximum and x < math.inf, expected)


positive_number = checked(float, lambda x: 0 < x < math.inf, "a number above 0")
fraction = checked(float, lambda x: 0 <= x < 1, "a number from 0 to below 1")
# As MLproject and people write it: true, True, 1, yes, on.
boolean = checked(lambda text: BOOLEANS[text.strip().lower()], lambda _: True, "true or false")


def matching(pattern: str, expected: str) -> ArgumentType[str]:
    """Type of a string that matches the whole pattern after surrounding blanks are stripped."""
    return checked(str.strip, re.compile(pattern).fullmatch, expected)


model_name = matching(r"""[^/:?"]+""", """a name without '/', ':', '?' and '"'""")
run_id_or_nothing = matching("([0-9a-f]{32})?", "a run's id, 32 of the characters 0-9 and a-f")
# A registered version: its number, or a word for one.
version = matching(
    "challenger|previous|[1-9][0-9]{0,8}", "a version's number, challenger or previous"
)


def nonblank(expected: str) -> ArgumentType[str]:
    """Type of a string that may not be blank."""
    return checked(str.strip, bool, expected)


def one_of(*choices: str, expected: str = "") -> ArgumentType[str]:
    """Type of one of `choices`; the error suggests the nearest.

    expected  how the error names the choices, if there are too many to list.
    """

    def parse(text: str) -> str:
        if text not in choices:
            near = get_close_matches(text.lower(), choices, n=1, cutoff=0.5)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            described = expected or f"one of {', '.join(choices)}"
            raise ArgumentTypeError(f"expected {described}; got {text!r}{hint}")
        return text

    return ArgumentType(parse, None if expected else "{" + ",".join(choices) + "}")


def auto_or(type: ArgumentType[Value]) -> ArgumentType[Value | None]:
    """Type of `auto`, parsed to None, or of whatever `type` accepts."""

    def parse(text: str) -> Value | None:
        if text.strip().lower() == "auto":
            return None
        try:
            return type(text)
        except ArgumentTypeError as error:
            message = str(error).replace("expected ", "expected 'auto' or ", 1)
            raise ArgumentTypeError(message) from None

    return ArgumentType(parse, type.metavar and "{auto," + type.metavar.removeprefix("{"))


def processes(text: str) -> int:
    """Type of `processes`: a whole number up to MAX_PROCESSES.

    Under torchrun it has to be 1 or the world size, and is parsed to the world size.
    """
    n = integer(1, MAX_PROCESSES)(text)
    if not is_distributed():
        return n
    if n not in (1, world_size()):
        message = f"expected 1 or {world_size()}, as many as torchrun has started, got {n}"
        raise ArgumentTypeError(message)
    return world_size()


def run_ids(default: str, at_least: int) -> Callable[[str], tuple[str, ...]]:
    """Type of `at_least` or more run ids, joined by commas; the word `default` gives ()."""
    least = {1: "one", 2: "two"}[at_least]

    def parse(text: str) -> tuple[str, ...]:
        ids = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
        if ids == (default,):
            return ()
        if len(ids) < at_least:
            raise ArgumentTypeError(
                f"expected {default}, or {least} or more run ids joined by commas, got {text!r}"
            )
        return ids

    return parse
