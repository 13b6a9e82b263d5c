"""The promotion rule: whether a new version of a model replaces the champion. Without MLflow."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

PROMOTE = ("if_better", "always", "never")


@dataclass(frozen=True)
class PromotionMetric:
    """A number that versions of a model are compared by.

    name             also the name of the version's tag that holds the number.
    label            the name as it appears in a sentence.
    as_text          formats the number for a sentence.
    lower_is_better  True for a cost or loss.
    tie_breaker      the metric that decides between equal numbers, if there is one.
    """

    name: str
    label: str
    as_text: Callable[[float], str] = "{:.4f}".format
    lower_is_better: bool = False
    tie_breaker: "PromotionMetric | None" = None


@dataclass(frozen=True)
class PromotionScore:
    """A version's value of a metric; `tie_breaker` is None if unknown, as in older versions."""

    metric: PromotionMetric
    value: float
    tie_breaker: "PromotionScore | None" = None

    def __str__(self) -> str:
        return self.metric.as_text(self.value)

    @property
    def tags(self) -> dict[str, str]:
        """The tags of a registered version with this score."""
        tags = {self.metric.name: repr(self.value), "judged_by": self.metric.name}
        if self.tie_breaker:
            tags[self.tie_breaker.metric.name] = repr(self.tie_breaker.value)
        return tags

    @classmethod
    def from_tags(cls, metric: PromotionMetric, tags: Mapping[str, str]) -> "PromotionScore":
        """The score of a version that was judged by `metric`."""
        breaker = metric.tie_breaker
        tie_breaker = cls.from_tags(breaker, tags) if breaker and breaker.name in tags else None
        return cls(metric, float(tags[metric.name]), tie_breaker)

    def compare(self, other: "PromotionScore") -> tuple[bool, str]:
        """Whether this score is better (an equal one is not), and a phrase that says why."""
        metric = self.metric
        if self.value == other.value and self.tie_breaker and other.tie_breaker:
            is_better, reason = self.tie_breaker.compare(other.tie_breaker)
            return is_better, f"its {metric.label} is equal, {self}, and {reason}"
        is_better = self.value < other.value if metric.lower_is_better else self.value > other.value
        relation = ("" if is_better else "not ") + ("below" if metric.lower_is_better else "above")
        return is_better, f"its {metric.label} {self} is {relation} the {other}"


@dataclass(frozen=True)
class RegisteredVersion:
    """A version, as the rule sees it; a version registered by hand has none of our tags."""

    version: int
    tags: Mapping[str, str]


def should_promote(
    new: RegisteredVersion, champion: RegisteredVersion | None, metric: PromotionMetric
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
    champion_was = f"the champion, version {champion.version}, was"
    remedy = "promote=always makes the new one champion"
    if champion.tags.get("data_digest") != new.tags["data_digest"]:
        return False, (
            f"{champion_was} made with other data, and its {metric.label} there says nothing "
            f"about this one's; {remedy}"
        )
    judged_by = [version.tags.get("judged_by") for version in (champion, new)]
    if judged_by != [metric.name, metric.name]:
        return False, (
            f"{champion_was} judged by {judged_by[0]}, this one by {judged_by[1]}; {remedy}"
        )
    scores = [PromotionScore.from_tags(metric, version.tags) for version in (new, champion)]
    is_better, reason = scores[0].compare(scores[1])
    return is_better, f"{reason} of version {champion.version}"
