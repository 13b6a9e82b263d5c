"""When a new model version becomes champion: the rule alone, without MLflow."""

from dataclasses import dataclass

PROMOTE = ("if_better", "always", "never")


@dataclass(frozen=True)
class Champion:
    """What the rule looks at in the present champion."""

    version: str
    data_digest: str | None
    cost: float


def wins(
    champion: Champion | None, data_digest: str, cost: float, promote: str
) -> tuple[bool, str]:
    """Whether a new version takes the champion's place, and why, in words. Lower cost is better."""
    if promote == "never":
        return False, "promote=never"
    if champion is None:
        return True, "there was no champion"
    if promote == "always":
        return True, f"promote=always, in place of version {champion.version}"
    if champion.data_digest != data_digest:
        return False, (
            f"the champion, version {champion.version}, was fitted to other data, and costs on "
            "different data cannot be compared; promote=always makes the new one champion"
        )
    costs = f"its cost {cost:,.0f} is {{}} the {champion.cost:,.0f} of version {champion.version}"
    is_lower = cost < champion.cost
    return is_lower, costs.format("below" if is_lower else "not below")
