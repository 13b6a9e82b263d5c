"""The grid of a comparison: optimizers, learning rates and seeds.

Imports nothing heavy: the parsers read these names before any heavy import.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from embedlab.errors import OptionError
from embedlab.movies.options import DEFAULT_LR, FitOptions

Job = tuple[FitOptions, int]  # the options and the seed of a fit
FIT_KEY = "fit_key"  # the tag of a fit's run
NEW_PREFIX = "+ "  # in tables, before a title that the exact solver does not recommend

# The course notebook's grid; other optimizers have their default rate.
PUBLISHED_RATES = {
    "adam": (1.0, 0.1, 0.01, 0.001, 0.0001),
    "rmsprop": (1.0, 0.1, 0.01, 0.001, 0.0001),
    "sgd": (4e-5, 3e-5, 2e-5, 1e-5, 1e-6),
}


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


def parse_rates(text: str) -> Mapping[str, tuple[float, ...]]:
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


def rates_of(optimizer: str, rates: Mapping[str, tuple[float, ...]]) -> tuple[float, ...]:
    """The learning rates of one optimizer, largest first."""
    published = PUBLISHED_RATES.get(optimizer, (DEFAULT_LR[optimizer],))
    return tuple(sorted(rates.get(optimizer, rates.get("", published)), reverse=True))


def fit_grid(
    optimizers: Sequence[str], rates: Mapping[str, tuple[float, ...]], exact: FitOptions
) -> list[FitOptions]:
    """The options of every fit of one seed: `exact`, the reference, then every learning rate.

    These fits are in order of optimizer and falling rate, with the other options of `exact`. Raises
    OptionError if an optimizer that is not compared has rates.
    """
    for name in rates:
        if name and name not in optimizers:
            raise OptionError(
                f"learning_rates: {name} has rates, but optimizers is {','.join(optimizers)}: "
                f"add {name} there, or leave its rates out"
            )
    grid = [(optimizer, lr) for optimizer in optimizers for lr in rates_of(optimizer, rates)]
    return [exact, *(replace(exact, optimizer=optimizer, lr=lr) for optimizer, lr in grid)]


def rates_as_text(optimizers: Sequence[str], rates: Mapping[str, tuple[float, ...]]) -> str:
    """All rates of the grid, in the syntax of `parse_rates`."""
    return "/".join(
        f"{name}:{','.join(f'{lr:g}' for lr in rates_of(name, rates))}" for name in optimizers
    )
