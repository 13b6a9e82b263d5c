"""The promotion rule: whether a new version of a model replaces the champion. Without MLflow."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

PROMOTE = ("if_better", "always", "never")


@dataclass(frozen=True)
class ScoreMetric:
    """A number that versions of a model are compared by.

    name         also the tag of a version that holds the number.
    label        the name as it appears in a sentence; `as_text` formats the number for one.
    is_cost      a lower number is better.
    tie_breaker  the metric that decides between equal numbers, if there is one.
    """

    name: str
    label: str
    as_text: Callable[[float], str] = "{:.4f}".format
    is_cost: bool = False
    tie_breaker: "ScoreMetric | None" = None


@dataclass(frozen=True)
class Score:
    """A version's value of a metric; `tie_breaker` is None if unknown, as in older versions."""

    metric: ScoreMetric
    value: float
    tie_breaker: float | None = None

    def __str__(self) -> str:
        return self.metric.as_text(self.value)

    @property
    def tags(self) -> dict[str, str]:
        """The tags of a registered version with this score."""
        found = {self.metric.name: repr(self.value), "judged_by": self.metric.name}
        if self.metric.tie_breaker and self.tie_breaker is not None:
            found[self.metric.tie_breaker.name] = repr(self.tie_breaker)
        return found

    @classmethod
    def from_tags(cls, metric: ScoreMetric, tags: Mapping[str, str]) -> "Score":
        """The score of a version that was judged by `metric`."""
        tie_breaker = tags.get(metric.tie_breaker.name) if metric.tie_breaker else None
        return cls(metric, float(tags[metric.name]), float(tie_breaker) if tie_breaker else None)

    def compare(self, other: "Score") -> tuple[bool, str]:
        """Whether this score is better (an equal one is not), and a phrase that says why."""
        metric, breaker = self.metric, self.metric.tie_breaker
        ties = self.tie_breaker, other.tie_breaker
        if breaker and self.value == other.value and ties[0] is not None and ties[1] is not None:
            is_better, reason = Score(breaker, ties[0]).compare(Score(breaker, ties[1]))
            return is_better, f"its {metric.label} is equal, {self}, and {reason}"
        is_better = self.value < other.value if metric.is_cost else self.value > other.value
        relation = ("" if is_better else "not ") + ("below" if metric.is_cost else "above")
        return is_better, f"its {metric.label} {self} is {relation} the {other}"


@dataclass(frozen=True)
class RegisteredVersion:
    """A version as the rule sees it. One that was registered by hand has none of our tags."""

    version: int
    tags: Mapping[str, str]


def should_promote(
    new: RegisteredVersion, champion: RegisteredVersion | None, metric: ScoreMetric
) -> tuple[bool, str]:
    """Whether version `new` replaces the champion, and a phrase that says why.

    Scores are compared only if both versions were judged by `metric` on equal data.
    """
    promote = new.tags["promote"]
    if promote == "never":
        return False, "promote=never"
    if champion is None:
        return True, "there was no champion"
    if promote == "always":
        return True, f"promote=always, in place of version {champion.version}"
    was = f"the champion, version {champion.version}, was"
    otherwise = "promote=always makes the new one champion"
    if champion.tags.get("data_digest") != new.tags["data_digest"]:
        return False, (
            f"{was} made with other data, and its {metric.label} there says nothing about this "
            f"one's; {otherwise}"
        )
    judged_by = [version.tags.get("judged_by") for version in (champion, new)]
    if judged_by != [metric.name, metric.name]:
        return False, f"{was} judged by {judged_by[0]}, this one by {judged_by[1]}; {otherwise}"
    scores = [Score.from_tags(metric, version.tags) for version in (new, champion)]
    is_better, reason = scores[0].compare(scores[1])
    return is_better, f"{reason} of version {champion.version}"
