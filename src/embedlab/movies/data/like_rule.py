"""The names of the like rules and user weights, apart from the arrays they work on: read before any
heavy import."""

import math

from embedlab.errors import OptionError

LIKE_RULES = "user_mean, user_median or threshold:<stars>"
# A user with n likes has the weight n^−p: p by name.
USER_WEIGHTS = {"none": 0.0, "inverse_sqrt": 0.5, "inverse": 1.0}


def parse_like_rule(text: str) -> tuple[str, float | None]:
    """`user_mean` -> ("user_mean", None); `threshold:3.5` -> ("threshold", 3.5)."""
    rule, colon, stars = text.partition(":")
    if not colon and rule in ("user_mean", "user_median"):
        return rule, None
    if rule == "threshold" and colon:
        try:
            value = float(stars)
        except ValueError:
            value = math.nan
        if 0.5 <= value <= 5:
            return rule, value
        raise OptionError(f"like_rule: expected threshold:<0.5 to 5 stars>, got '{text}'")
    raise OptionError(f"like_rule: expected {LIKE_RULES}, got '{text}'")


def check_like_rule(text: str) -> str:
    """The rule itself, if it is one: for a command line. Raises OptionError."""
    parse_like_rule(text)
    return text
