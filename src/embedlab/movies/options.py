"""Options of the movie entry points: like rules, user weights, and how to fit.

Imports neither torch, scipy nor pandas: the parsers read these names before any heavy import.
"""

from contextlib import suppress
from dataclasses import dataclass

from embedlab.errors import OptionError

LIKE_RULES = "user_mean, user_median or threshold:<stars>"
# The exponent p of a user's weight n^−p (n: the user's likes), by name.
USER_WEIGHTS = {"none": 0.0, "inverse_sqrt": 0.5, "inverse": 1.0}
# The course notebook's best learning rate for each optimizer; L-BFGS scales its own steps.
DEFAULT_LR = {"adam": 1.0, "rmsprop": 0.1, "sgd": 2e-5, "adamw": 1.0, "lbfgs": 1.0}
OPTIMIZERS = (*DEFAULT_LR, "exact")
OBJECTIVES = ("factored", "dense")
MOVIE_MAPS = ("tsne", "pca", "none")
# Maximum number of rounds of the exact solver where its cost is a reference. It needs tens, or
# thousands if dim is above about half the number of movies.
REFERENCE_ROUNDS = 1_000
NORM_EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # a of the score dot / |v|^a: from dot to cosine


def parse_like_rule(text: str) -> tuple[str, float | None]:
    """`user_mean` -> ("user_mean", None); `threshold:3.5` -> ("threshold", 3.5).

    Raises OptionError for an unknown rule, or a threshold outside of 0.5 to 5 stars.
    """
    if text in ("user_mean", "user_median"):
        return text, None
    if text.startswith("threshold:"):
        with suppress(ValueError):
            if 0.5 <= (stars := float(text.removeprefix("threshold:"))) <= 5:
                return "threshold", stars
        raise OptionError(f"like_rule: expected threshold:<0.5 to 5 stars>, got '{text}'")
    raise OptionError(f"like_rule: expected {LIKE_RULES}, got '{text}'")


def check_like_rule(text: str) -> str:
    """Argument type of a like rule: `threshold:4.0` -> "threshold:4", as runs record it.

    Raises OptionError as `parse_like_rule`.
    """
    rule, stars = parse_like_rule(text)
    return rule if stars is None else f"{rule}:{stars}".removesuffix(".0")


@dataclass(frozen=True)
class FitOptions:
    """How to fit an embedding.

    optimizer   one of OPTIMIZERS; `exact` solves by eigenpairs and has no learning rate.
    lr          learning rate; None takes the optimizer's default.
    dim         length of a movie's vector.
    epochs      number of updates (`exact`: maximum number of rounds; it stops on convergence).
    objective   one of OBJECTIVES; `exact` ignores it.
    init_scale  standard deviation of the start's N(0, s²) entries.

    The argument types of the parser check each range. Raises OptionError for a learning rate with
    `exact`.
    """

    optimizer: str = "adam"
    lr: float | None = None
    dim: int = 100
    epochs: int = 150
    objective: str = "factored"
    init_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.lr is None:
            object.__setattr__(self, "lr", DEFAULT_LR.get(self.optimizer))
        elif self.is_exact:
            raise OptionError(f"lr: expected 'auto' with optimizer=exact, got {self.lr}")

    @property
    def is_exact(self) -> bool:
        return self.optimizer == "exact"

    @property
    def label(self) -> str:
        """Name of the fit's curve or run: `adam lr=0.1`, `exact`."""
        return self.optimizer if self.lr is None else f"{self.optimizer} lr={self.lr:g}"


def check_processes(options: FitOptions, processes: int) -> None:
    """Raises OptionError if several processes cannot share this fit."""
    if processes > 1 and (options.is_exact or options.objective == "dense"):
        found = "optimizer=exact" if options.is_exact else "objective=dense"
        raise OptionError(
            f"processes: expected 1 with {found}, got {processes}; several processes share "
            "objective=factored, with a gradient-based optimizer such as adam"
        )
