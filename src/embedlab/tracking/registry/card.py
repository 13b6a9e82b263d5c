"""The model card: data, licences, training, results and limits of a model, as Markdown.

MLflow shows it as the version's description.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from embedlab.tracking.registry.promotion import PromotionScore

CARD_FILE = "model_card.md"
MAX_VALUE_LENGTH = 250  # MLflow's databases take 5,000 characters in all, and some values are paths


@dataclass(frozen=True)
class Card:
    """The facts in a version's tags and its description.

    summary      the model, in a sentence.
    data         name of the data set, whose sha256 is `data_digest`; `counts` describes its size.
    licences     data or weights -> their licence, in a sentence.
    trained      parameter -> value.
    origin       entry_point, git.commit and git.dirty of the run `run_id`.
    score        decides which version is champion.
    metrics      name -> number, besides the score.
    results      what was measured -> the result as text, with an interval if there is one.
    limits       sentences about what the model cannot do and must not be used for.
    command      returns the shell command that queries the model at a URI.
    """

    summary: str
    data: str
    data_digest: str
    counts: str
    licences: Mapping[str, str]
    trained: Mapping[str, str]
    origin: Mapping[str, str]
    run_id: str
    score: PromotionScore
    metrics: Mapping[str, float]
    results: Mapping[str, str]
    limits: tuple[str, ...]
    command: Callable[[str], str]

    @property
    def tags(self) -> dict[str, str]:
        """The tags of a registered version."""
        numbers = {name: repr(float(value)) for name, value in self.metrics.items()}
        facts = {"data_digest": self.data_digest, **self.origin, **self.trained}
        return {**facts, **numbers, **self.score.tags}

    def markdown(self, model_uri: str) -> str:
        """The card of the model with this URI as Markdown."""
        commit = self.origin["git.commit"]
        if self.origin["git.dirty"] == "true":
            commit += ", with changes that were not committed"
        trained = {
            "entry point": self.origin["entry_point"],
            **self.trained,
            "code commit": commit,
            "run": self.run_id,
        }
        sections = [
            self.summary,
            "## Data and licence",
            f"{_short(self.data)}: {self.counts}; sha256 `{self.data_digest}`.",
            _list(self.licences),
            "## How it was trained",
            _list(trained),
            "## How good it is",
            _list(self.results),
            "## What it cannot do",
            "\n".join(f"- {sentence}" for sentence in self.limits),
            "## Query it",
            f"```bash\n{self.command(model_uri)}\n```",
        ]
        return "\n\n".join(sections) + "\n"


def _list(facts: Mapping[str, str]) -> str:
    """A Markdown list; MLflow renders tables without space between their columns."""
    return "\n".join(f"- {name}: {_short(value)}" for name, value in facts.items())


def _short(text: str) -> str:
    """The text on one line, cut so that the card fits into MLflow's database."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_VALUE_LENGTH else f"{line[:MAX_VALUE_LENGTH]}…"
