"""The grid of a comparison: optimizers, learning rates and seeds.

Imports nothing heavy: the parsers read these names before any heavy import, and the page of all
results needs FIT_KEY and NEW_PREFIX alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from embedlab.errors import OptionError
from embedlab.movies.options import DEFAULT_LR, REFERENCE_ROUNDS, FitOptions

Rates = Mapping[str, tuple[float, ...]]  # learning rates by optimizer
FIT_KEY = "fit_key"  # the tag of a fit's run
NEW_PREFIX = "+ "  # in tables, before a title that the exact solver does not recommend

# The course notebook's grid; other optimizers have their default rate.
PUBLISHED_RATES = {
    "adam": (1.0, 0.1, 0.01, 0.001, 0.0001),
    "rmsprop": (1.0, 0.1, 0.01, 0.001, 0.0001),
    "sgd": (4e-5, 3e-5, 2e-5, 1e-5, 1e-6),
}


class Job(NamedTuple):
    """The options and the seed of a fit."""

    options: FitOptions
    seed: int


def parse_optimizers(text: str) -> tuple[str, ...]:
    """`adam,sgd` -> ("adam", "sgd"). Raises OptionError for an unknown name, or none."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [name for name in names if name not in DEFAULT_LR]
    if unknown or not names:
        found = repr(unknown[0]) if unknown else "none"
        raise OptionError(
            f"optimizers: expected some of {', '.join(DEFAULT_LR)}, joined by commas (the exact "
            f"solver is always there), got {found}"
        )
    return names


def parse_rates(text: str) -> Rates:
    """Parse learning rates by optimizer. Raises OptionError for any other syntax.

    `published` -> {}
    `1,0.1` -> {"": (1, 0.1)}, for every optimizer
    `adam:1,0.1/sgd:1e-5` -> {"adam": (1, 0.1), "sgd": (1e-5,)}, others as published
    """
    if text.strip() == "published":
        return {}
    rates: dict[str, tuple[float, ...]] = {}
    parts = text.split("/")
    for part in parts:
        name, colon, numbers = part.rpartition(":")
        name = name.strip()
        try:
            values = tuple(dict.fromkeys(map(float, numbers.split(","))))
        except ValueError:
            values = ()
        is_name_good = name in DEFAULT_LR and name not in rates if colon else len(parts) == 1
        if not (values and is_name_good and all(0 < value < math.inf for value in values)):
            raise OptionError(
                "learning_rates: expected published, rates above 0 joined by commas as 1,0.1, or "
                f"such a list for each of some of {', '.join(DEFAULT_LR)} as adam:1,0.1/sgd:2e-5; "
                f"got {part!r}"
            )
        rates[name] = values
    return rates


def choose_rates(optimizers: Sequence[str], given: Rates) -> Rates:
    """The learning rates of each optimizer, largest first; `given` is from `parse_rates`.

    Raises OptionError if an optimizer that is not compared has rates.
    """
    for name in given:
        if name and name not in optimizers:
            raise OptionError(
                f"learning_rates: {name} has rates, but optimizers is {','.join(optimizers)}: "
                f"add {name} there, or leave its rates out"
            )
    chosen = {}
    for name in optimizers:
        published = PUBLISHED_RATES.get(name, (DEFAULT_LR[name],))
        rates = given.get(name, given.get("", published))
        chosen[name] = tuple(sorted(rates, reverse=True))
    return chosen


def rates_as_text(rates: Rates) -> str:
    """Rates by optimizer, in the syntax of `parse_rates`."""
    return "/".join(f"{name}:{','.join(map('{:g}'.format, lrs))}" for name, lrs in rates.items())


def fit_grid(rates: Rates, exact: FitOptions) -> list[FitOptions]:
    """The options of every fit of one seed: the reference, then every learning rate.

    The reference is `exact` with at least REFERENCE_ROUNDS. The fits after it are ordered by
    optimizer and falling rate; they share the other options of `exact`.
    """
    grid = [replace(exact, epochs=max(exact.epochs, REFERENCE_ROUNDS))]
    for optimizer, lrs in rates.items():
        grid += [replace(exact, optimizer=optimizer, lr=lr) for lr in lrs]
    return grid
