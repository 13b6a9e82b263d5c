"""The model registry: a new version is a challenger, or champion if it is better on the same data.

There are two aliases. `champion` is the version that `recommend` and `mlflow models serve` use;
`challenger` is the version registered last, or is unset if that version became champion. Scores are
compared only if the versions' data have the same digest.

Concurrent registrations take turns. MLflow cannot set an alias depending on its current value, and
over HTTP there is no lock to take, but it numbers versions atomically. So the number is a ticket:
a registration waits until every lower version is decided (tag `registered_as`), then reads the
champion, compares, and sets the aliases. A version that is still undecided after UNDECIDED_SECONDS
belongs to a killed process, and the next registration decides it.

One limit remains: a registration that stalls for longer than UNDECIDED_SECONDS while it decides may
overwrite the aliases that a later registration has set.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlflow

from embedlab.tracking.model_logging import check_answers_its_example
from embedlab.tracking.project import command
from embedlab.tracking.registry.card import CARD_FILE, Card
from embedlab.tracking.registry.registered_model import (
    CHALLENGER,
    CHAMPION,
    RegisteredModel,
    registered_version,
)
from embedlab.tracking.store import explain_store_errors
from embedlab.tracking.tracked_run import TrackedRun

UNDECIDED_SECONDS = 60  # after which a registration counts as killed
PROMOTION_SECONDS = 5  # for which a promotion waits for registrations


@dataclass(frozen=True)
class Registration:
    """A version, its alias `champion` or `challenger`, and the reason, as a phrase."""

    name: str
    version: int
    alias: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} version {self.version} is {self.alias}: {self.reason}"

    @property
    def label(self) -> str:
        """The value of the run's tag `registered_model`."""
        return f"{self.name} {self.version} ({self.alias})"

    @property
    def uri(self) -> str:
        """The model's URI: by alias if champion, else by number, which stays the same."""
        is_champion = self.alias == CHAMPION
        return f"models:/{self.name}@{CHAMPION}" if is_champion else _uri(self.name, self.version)


@dataclass(frozen=True)
class Promotion(Registration):
    """A version that was made champion by hand.

    previous  the number of the champion until then, which may be this version; None for none.
    """

    previous: int | None

    def __str__(self) -> str:
        if self.version == self.previous:
            return f"{self.name}: version {self.version} is champion already, nothing has changed"
        replaced = f"version {self.previous} was" if self.previous else "there was none"
        return f"{self.name}: version {self.version} is champion ({replaced}): {self.reason}"

    @property
    def undo(self) -> str:
        """A line with the command that restores the previous champion; "" if there is none."""
        if self.previous in (None, self.version):
            return ""
        because = f"instead of version {self.version}"
        undo = command("promote", model_name=self.name, version=self.previous, reason=because)
        return f"Undo it with  {undo}"


def publish(
    run: TrackedRun,
    model_uri: str,
    card: Card,
    params: Mapping[str, Any],
    headline: str,
    verb: str,
) -> list[str]:
    """Log the model's card, register the model if `params` say so, and describe the run.

    params    has `register`, `model_name` and `promote`.
    headline  the run's result, which the description begins with.
    verb      what the card's command does: `Query` or `Serve`.

    Returns what to tell the user. Raises TrackingError, without registering the model, if it does
    not answer its own input example.
    """
    uri, messages = f"runs:/{run.id}/model", []
    if params["register"]:
        run.call_online(lambda: check_answers_its_example(model_uri))
        registration = register(model_uri, params["model_name"], card, params["promote"])
        run.set_tags({"registered_model": registration.label})
        uri, messages = registration.uri, [str(registration)]
    run.log_text(card.markdown(uri), CARD_FILE)
    use = card.command(uri)
    run.describe("\n\n".join([f"**{headline}**", *messages, f"{verb} it: `{use}`"]))
    return [*messages, f"{verb} it with  {use}"]


def register(model_uri: str, name: str, card: Card, promote: str = "if_better") -> Registration:
    """Register a logged model under `name`, with its card as description and as tags.

    promote  `if_better`: the version becomes champion if there is none, or if the champion's score
             on the same data is worse; `always`: it becomes champion; `never`: challenger.
    """
    model = RegisteredModel(name)
    with explain_store_errors():
        created = mlflow.register_model(model_uri, name, tags={**card.tags, "promote": promote})
        version = int(created.version)
        if not model.client.get_registered_model(name).description:
            model.client.update_registered_model(name, card.summary)
        model.client.update_model_version(name, created.version, card.markdown(_uri(name, version)))
        since = created.creation_timestamp - 1000 * UNDECIDED_SECONDS
        for killed in model.wait_for_registrations(UNDECIDED_SECONDS, since, below=version):
            model.decide(killed, card.score.metric)
        alias, reason = model.decide(registered_version(created), card.score.metric)
    return Registration(name, version, alias, reason)


def promote_version(name: str, wanted: str, reason: str) -> Promotion:
    """Make a version champion, whatever its score.

    wanted  a number, `challenger`, or `previous`: the version that the current champion replaced.

    The promotion prevails over registrations that are under way; of two concurrent promotions, the
    last one prevails. Raises TrackingError if there is no such model or version.
    """
    model = RegisteredModel(name)
    with explain_store_errors():
        version = model.find(wanted)
        champion = model.by_alias(CHAMPION)
        previous = champion.version if champion else None
        if version != previous:
            model.make_champion(version, reason, champion)
            since = time.time() * 1000 - 1000 * UNDECIDED_SECONDS
            model.wait_for_registrations(PROMOTION_SECONDS, since)
            # Set it again: a registration that has ended since may have overwritten the alias.
            model.set_alias(CHAMPION, version)
            challenger = model.by_alias(CHALLENGER)
            if challenger and challenger.version == version:
                model.set_alias(CHALLENGER, None)
    return Promotion(name, version, CHAMPION, reason, previous)


def _uri(name: str, version: int) -> str:
    return f"models:/{name}/{version}"
