"""The model registry: a new version is a challenger, or champion if it is better on the same data.

There are two aliases. `champion` answers `recommend` and `mlflow models serve`; `challenger` is the
version registered last, or is unset if that one became champion. Scores are compared only on equal
data, by its digest.

Concurrent registrations take turns. MLflow cannot set an alias depending on its current value, and
over HTTP there is no lock to take, but it numbers versions atomically. So the number is a ticket:
a registration waits until every lower version is decided (tag `registered_as`), then reads the
champion, compares, and sets the aliases. A version that is still undecided after UNDECIDED_SECONDS
belongs to a killed process, and the next registration decides it.

Not guaranteed: a registration that stalls for longer than that while it decides may overwrite
the aliases that a later one has set.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, ErrorCode

from embedlab.errors import TrackingError
from embedlab.formatting import command
from embedlab.tracking.registry.card import CARD_FILE, Card
from embedlab.tracking.registry.model import check_answers_its_example
from embedlab.tracking.registry.promotion import (
    PromotionMetric,
    RegisteredVersion,
    should_promote,
)
from embedlab.tracking.run import TrackedRun
from embedlab.tracking.store import explain_store_errors, store_address

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
UNDECIDED_SECONDS = 60  # after which a registration counts as killed
PROMOTION_SECONDS = 5  # for which a promotion waits for registrations
POLL_SECONDS = 0.1
MAX_ATTEMPTS = 5  # of one write
NEWEST_SHOWN = 10


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
        """The URI by alias if champion, else by number, as the next challenger takes that alias."""
        is_champion = self.alias == CHAMPION
        return f"models:/{self.name}@{CHAMPION}" if is_champion else _uri(self.name, self.version)


@dataclass(frozen=True)
class Promotion(Registration):
    """A version that was made champion by hand.

    before  the number of the champion before it, if there was one.
    """

    before: int | None

    def __str__(self) -> str:
        if self.version == self.before:
            return f"{self.name}: version {self.version} is champion already, nothing has changed"
        before = f"version {self.before} was" if self.before else "there was none"
        return f"{self.name}: version {self.version} is champion ({before}): {self.reason}"

    @property
    def undo(self) -> str:
        """The command that makes the version before it champion again, if there was one."""
        if self.before in (None, self.version):
            return ""
        because = f"instead of version {self.version}"
        given = {"model_name": self.name, "version": self.before, "reason": because}
        return f"Undo it with  {command('promote', **given)}"


def publish(
    run: TrackedRun,
    model_uri: str,
    card: Card,
    args: Mapping[str, Any],
    headline: str,
    verb: str,
    command_for: Callable[[str], str],
) -> list[str]:
    """Log the model's card, register the model if `args` say so, and describe the run.

    args         has `register`, `model_name` and `promote`.
    headline     the run's result, which the description begins with.
    command_for  returns the shell command that uses the model of a URI; `verb` is what it does.

    Returns what to tell the user. Raises TrackingError, without registering the model, if it does
    not answer its own input example.
    """
    uri, messages = f"runs:/{run.id}/model", []
    if args["register"]:
        run.retry_until_available(lambda: check_answers_its_example(model_uri))
        registration = register(model_uri, args["model_name"], card, args["promote"])
        run.set_tags({"registered_model": registration.label})
        uri, messages = registration.uri, [str(registration)]
    run.log_text(card.markdown(uri), CARD_FILE)
    use = command_for(uri)
    run.describe("\n\n".join([f"**{headline}**", *messages, f"{verb} it: `{use}`"]))
    return [*messages, f"{verb} it with  {use}"]


def register(model_uri: str, name: str, card: Card, promote: str = "if_better") -> Registration:
    """Register a logged model under `name`, with its card as description and as tags.

    promote  `if_better`: champion if there is none, or its score on the same data is worse;
             `always`: champion; `never`: challenger.
    """
    model = _RegisteredModel(name)
    with explain_store_errors():
        created = mlflow.register_model(model_uri, name, tags={**card.tags, "promote": promote})
        version = int(created.version)
        if not model.client.get_registered_model(name).description:
            model.client.update_registered_model(name, card.summary)
        model.client.update_model_version(name, created.version, card.markdown(_uri(name, version)))
        since = created.creation_timestamp - 1000 * UNDECIDED_SECONDS
        for killed in model.wait_for_registrations(UNDECIDED_SECONDS, since, below=version):
            model.decide(killed, card.score.metric)
        alias, reason = model.decide(_registered_version(created), card.score.metric)
    return Registration(name, version, alias, reason)


def set_champion(name: str, wanted: str, reason: str) -> Promotion:
    """Make a version champion, whatever its score.

    wanted  a number, `challenger`, or `previous`: the version that the current champion replaced.

    The promotion prevails over registrations that are under way; of two concurrent promotions, the
    last one prevails. Raises TrackingError if there is no such model or version.
    """
    model = _RegisteredModel(name)
    with explain_store_errors():
        version = model.find(wanted)
        champion = model.by_alias(CHAMPION)
        before = champion.version if champion else None
        if version != before:
            model.make_champion(version, reason, champion)
            since = time.time() * 1000 - 1000 * UNDECIDED_SECONDS
            model.wait_for_registrations(PROMOTION_SECONDS, since)
            # Set it again: a registration that has ended since may have overwritten the alias.
            model.set_alias(CHAMPION, version)
            challenger = model.by_alias(CHALLENGER)
            if challenger and challenger.version == version:
                model.set_alias(CHALLENGER, None)
    return Promotion(name, version, CHAMPION, reason, before)


class _RegisteredModel:
    """A model of the registry: its versions by number, its aliases, and who gets them."""

    def __init__(self, name: str):
        self.name, self.client = name, mlflow.MlflowClient()

    def versions(self) -> dict[int, ModelVersion]:
        """The versions that have not been deleted, by number, in ascending order."""
        quote = '"' if "'" in self.name else "'"
        found = self.client.search_model_versions(f"name = {quote}{self.name}{quote}")
        return dict(sorted((int(version.version), version) for version in found))

    def by_alias(self, alias: str) -> RegisteredVersion | None:
        number = self.client.get_registered_model(self.name).aliases.get(alias)
        if number is None:
            return None
        return _registered_version(self.client.get_model_version(self.name, str(number)))

    def find(self, wanted: str) -> int:
        """The number of the version that `set_champion` was asked for."""
        versions = self.versions()
        if not versions:
            raise TrackingError(
                "model_name: expected a registered model with a version, but "
                f"{store_address()} has no {self.name!r}: register one by an entry point that "
                "trains, with -P register=true."
            )
        number, problem = self._resolve(wanted)
        if number in versions:
            return number
        if number is not None:
            fate = "was deleted" if number < max(versions) else "does not exist"
            problem = f"version {number} of {self.name} {fate}"
        newest = ", ".join(map(str, list(reversed(versions))[:NEWEST_SHOWN]))
        raise TrackingError(f"version: {problem}: give a number; its newest versions: {newest}.")

    def _resolve(self, wanted: str) -> tuple[int | None, str]:
        """The version number that `wanted` names, and ""; or None, and why there is none."""
        if wanted not in (CHALLENGER, PREVIOUS):
            return int(wanted), ""
        alias = CHALLENGER if wanted == CHALLENGER else CHAMPION
        version = self.by_alias(alias)
        if version is None:
            return None, f"{self.name} has no {alias} now"
        if wanted == CHALLENGER:
            return version.version, ""
        replaced = version.tags.get("replaces_version")
        problem = f"the champion of {self.name}, version {version.version}, replaced no other"
        return int(replaced) if replaced else None, problem

    def wait_for_registrations(
        self, seconds: float, since: float, below: float = math.inf
    ) -> list[RegisteredVersion]:
        """Wait until all versions under `below` are decided, or none has been for `seconds`.

        Versions made before `since` (ms since 1970) are ignored. Returns the versions that are
        still undecided, in order of number: their processes were killed.
        """
        waiting, end = None, 0.0
        while True:
            undecided = [
                _registered_version(version)
                for number, version in self.versions().items()
                if number < below
                and "promote" in version.tags  # else somebody registered it by hand
                and "registered_as" not in version.tags
                and version.creation_timestamp > since
            ]
            if undecided != waiting:
                waiting, end = undecided, time.monotonic() + seconds
            if not undecided or time.monotonic() >= end:
                return undecided
            time.sleep(POLL_SECONDS)

    def decide(self, new: RegisteredVersion, metric: PromotionMetric) -> tuple[str, str]:
        """Make the version champion or challenger; return the alias, and a phrase that says why."""
        champion = self.by_alias(CHAMPION)
        if champion and champion.version == new.version:  # its process was killed after that
            is_champion, reason = True, champion.tags["promoted_because"]
        else:
            is_champion, reason = should_promote(new, champion, metric)
            if is_champion:
                self.make_champion(new.version, reason, champion)
        self.set_alias(CHALLENGER, None if is_champion else new.version)
        alias = CHAMPION if is_champion else CHALLENGER
        self.tag(new.version, registered_as=f"{alias}: {reason}")
        return alias, reason

    def make_champion(self, version: int, because: str, replaced: RegisteredVersion | None) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.tag(version, promoted_because=because, promoted_at=now)
        if replaced:
            self.tag(version, replaces_version=str(replaced.version))
        self.set_alias(CHAMPION, version)

    def tag(self, version: int, **tags: str) -> None:
        for key, value in tags.items():
            _retry(self.client.set_model_version_tag, self.name, str(version), key, value)

    def set_alias(self, alias: str, version: int | None) -> None:
        """Point the alias to the version; None removes it."""
        if version is None:
            _retry(self.client.delete_registered_model_alias, self.name, alias)
        else:
            _retry(self.client.set_registered_model_alias, self.name, alias, str(version))


def _retry(call: Callable[..., None], *args: str) -> None:
    """Set or delete a tag or an alias, even if another process does the same at that moment.

    MLflow first checks whether it exists, so the second process to insert or delete it gets a
    BAD_REQUEST.
    """
    for attempts_left in reversed(range(MAX_ATTEMPTS)):
        try:
            return call(*args)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(BAD_REQUEST) or not attempts_left:
                raise


def _registered_version(version: ModelVersion) -> RegisteredVersion:
    return RegisteredVersion(int(version.version), version.tags)


def _uri(name: str, version: int) -> str:
    return f"models:/{name}/{version}"
