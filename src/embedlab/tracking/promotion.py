"""When a new model version becomes champion: the rule alone, without MLflow."""

from dataclasses import dataclass

PROMOTE = ("if_better", "always", "never")
# Name of a score (also the version's tag that holds it) -> words, format, and what is better.
SCORES = {
    "cost": ("cost", ",.0f", "below"),
    "val_accuracy": ("validation accuracy", ".4f", "above"),
}


@dataclass(frozen=True)
class Score:
    """What versions are compared by: one of SCORES."""

    name: str
    value: float

    def __str__(self) -> str:
        return format(self.value, SCORES[self.name][1])

    def compare(self, other: "Score") -> tuple[bool, str]:
        """Whether this one is better (an equal one is not), and that in words."""
        words, _, wanted = SCORES[self.name]
        is_better = self.value < other.value if wanted == "below" else self.value > other.value
        return is_better, f"its {words} {self} is {'' if is_better else 'not '}{wanted} the {other}"


@dataclass(frozen=True)
class Champion:
    """What the rule looks at in the present champion."""

    version: str
    data_digest: str | None
    score: Score


def wins(
    champion: Champion | None, data_digest: str, score: Score, promote: str
) -> tuple[bool, str]:
    """Whether a new version takes the champion's place, and why, in words."""
    if promote == "never":
        return False, "promote=never"
    if champion is None:
        return True, "there was no champion"
    if promote == "always":
        return True, f"promote=always, in place of version {champion.version}"
    if champion.data_digest != data_digest:
        words = SCORES[score.name][0]
        return False, (
            f"the champion, version {champion.version}, was made with other data, and its {words} "
            "there says nothing about this one's; promote=always makes the new one champion"
        )
    is_better, reason = score.compare(champion.score)
    return is_better, f"{reason} of version {champion.version}"
