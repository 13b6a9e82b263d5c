"""When a model version is champion: the rule alone, without MLflow."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from embedlab.wording import cost_as_text

PROMOTE = ("if_better", "always", "never")
PROMOTE_BY = ("cost", "ndcg")  # of movie embeddings
VAL_LOSS = "val_loss"
# Name of a score (also the version's tag that holds it) -> words, its text, and what is better.
METRICS = {
    "cost": ("cost", cost_as_text, "below"),
    "ndcg": ("NDCG@10 of held-out likes", "{:.4f}".format, "above"),
    "val_accuracy": ("validation accuracy", "{:.4f}".format, "above"),
    VAL_LOSS: ("validation loss", "{:.4f}".format, "below"),
}
TIE_BREAKERS = {"val_accuracy": VAL_LOSS}  # what decides between equal scores


@dataclass(frozen=True)
class Score:
    """What versions are compared by: one of SCORES.

    tie_breaker  the value of its tie-breaker, if it has one and that is known.
    """

    name: str
    value: float
    tie_breaker: float | None = None

    def __str__(self) -> str:
        return METRICS[self.name][1](self.value)

    @property
    def words(self) -> str:
        return METRICS[self.name][0]

    @property
    def tags(self) -> dict[str, str]:
        """As a registered version carries them."""
        found = {self.name: repr(self.value), "judged_by": self.name}
        if self.tie_breaker is not None:
            found[TIE_BREAKERS[self.name]] = repr(self.tie_breaker)
        return found

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> "Score | None":
        """None for a version that was registered by hand."""
        name = tags.get("judged_by")
        if name not in METRICS:
            return None
        tie_breaker = tags.get(TIE_BREAKERS.get(name, ""))
        return cls(name, float(tags[name]), None if tie_breaker is None else float(tie_breaker))

    def compare(self, other: "Score") -> tuple[bool, str]:
        """Whether this one is better (an equal one is not), and that in words."""
        wanted = METRICS[self.name][2]
        if self.value == other.value and None not in (self.tie_breaker, other.tie_breaker):
            name = TIE_BREAKERS[self.name]
            is_better, reason = Score(name, self.tie_breaker).compare(
                Score(name, other.tie_breaker)
            )
            return is_better, f"its {self.words} is equal, {self}, and {reason}"
        is_better = self.value < other.value if wanted == "below" else self.value > other.value
        negation = "" if is_better else "not "
        return is_better, f"its {self.words} {self} is {negation}{wanted} the {other}"


@dataclass(frozen=True)
class Candidate:
    """What the rule looks at in a version; of one that was registered by hand there is no more
    than its number."""

    version: int
    data_digest: str | None = None
    score: Score | None = None
    promote: str = "never"


def should_promote(champion: Candidate | None, new: Candidate) -> tuple[bool, str]:
    """Whether a new version takes the champion's place, and why, in words."""
    if new.promote == "never":
        return False, "promote=never"
    if champion is None:
        return True, "there was no champion"
    if new.promote == "always":
        return True, f"promote=always, in place of version {champion.version}"
    if champion.data_digest != new.data_digest or champion.score is None:
        return False, (
            f"the champion, version {champion.version}, was made with other data, and its "
            f"{new.score.words} there says nothing about this one's; promote=always makes the new "
            "one champion"
        )
    if champion.score.name != new.score.name:
        return False, (
            f"the champion, version {champion.version}, was judged by its {champion.score.words}, "
            f"this one by its {new.score.words}; promote=always makes the new one champion"
        )
    is_better, reason = new.score.compare(champion.score)
    return is_better, f"{reason} of version {champion.version}"


@dataclass(frozen=True)
class Resolution:
    """Numbers of the champion and of the version it replaced; and why each has won or not."""

    champion: int | None
    replaced: int | None
    reasons: dict[int, str]


def resolve_champion(champion: Candidate | None, candidates: Iterable[Candidate]) -> Resolution:
    """Let the candidates challenge the champion, in order of their numbers.

    From whatever champion some of them have made among themselves, all of them make the same one.
    So registrations at the same moment agree, however their reads and writes were mixed.
    """
    replaced, reasons = None, {}
    for new in sorted(candidates, key=lambda candidate: candidate.version):
        if champion is not None and champion.version == new.version:
            continue
        is_better, reasons[new.version] = should_promote(champion, new)
        if is_better:
            if champion is not None:
                replaced = champion.version
                reasons[replaced] = f"version {new.version}, of the same moment, has replaced it"
            champion = new
    return Resolution(champion and champion.version, replaced, reasons)
