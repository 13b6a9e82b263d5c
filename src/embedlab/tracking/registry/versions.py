"""The model registry: a new version is a challenger, and champion only if it earns it.

Two aliases: `champion` answers `recommend` and `mlflow models serve`, `challenger` is the newest
version that has not replaced it. Scores are compared only on equal data, by its digest.

Two registrations at once. MLflow sets an alias without looking at what it was, so either could
overwrite the other. But versions get their numbers and tags in one step. So each registration lets
all versions that are still undecided, its own among them, compete in order of their numbers, sets
the aliases to the outcome, and looks again until nothing has changed; only then its version counts
as decided (tag `registered_as`). The outcome is the same from whatever the others wrote meanwhile,
so when the last registration has ended, the aliases are as if one had come after the other.

Not guaranteed: in the milliseconds before that, an alias may be on the worse of two new versions;
a registration that was killed after its first write is put right by the next one, or by `promote`;
and one that stands still for longer than UNDECIDED_SECONDS may overwrite what came after it.
"""

import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    BAD_REQUEST,
    INVALID_PARAMETER_VALUE,
    RESOURCE_DOES_NOT_EXIST,
    ErrorCode,
)

from embedlab.errors import TrackingError
from embedlab.tracking.registry.card import CARD_FILE, Card
from embedlab.tracking.registry.model import check_answers_its_example
from embedlab.tracking.registry.promotion import Candidate, Score, resolve_champion
from embedlab.tracking.run import TrackedRun
from embedlab.tracking.store import explain_store_errors, store_address

# A model that does not exist is one code, an alias that does not exist another.
NOT_THERE = [ErrorCode.Name(code) for code in (RESOURCE_DOES_NOT_EXIST, INVALID_PARAMETER_VALUE)]
CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
UNDECIDED_SECONDS = 60  # a registration that takes longer was killed
MAX_ATTEMPTS = 5  # of one write
MAX_ROUNDS = 100  # as many registrations at the same moment, at the least
WAIT_SECONDS, MAX_WAITS = 0.1, 50  # of a promotion, for registrations that are under way
NEWEST_SHOWN = 10


@dataclass(frozen=True)
class Registration:
    """A new version, whether it is champion or challenger, and why, in words."""

    name: str
    version: int
    alias: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} version {self.version} is {self.alias}: {self.reason}"

    @property
    def label(self) -> str:
        """As a run's tag has it."""
        return f"{self.name} {self.version} ({self.alias})"

    @property
    def uri(self) -> str:
        """By alias as champion; by number as challenger, as the next one takes that alias."""
        is_champion = self.alias == CHAMPION
        return f"models:/{self.name}@{CHAMPION}" if is_champion else _uri(self.name, self.version)


def publish(
    run: TrackedRun, model_uri: str, card: Card, score: Score, name: str | None, promote: str
) -> tuple[str, list[str]]:
    """Log the model's card, and register the model where it has a name.

    Returns the URI to ask it by, and what to tell the user. Raises TrackingError where the model
    does not answer its own input example; it is not registered then.
    """
    if name is None:
        uri, said = f"runs:/{run.id}/model", []
    else:
        run.retry_until_available(lambda: check_answers_its_example(model_uri))
        entry = register(model_uri, name, card, score, promote)
        run.set_tags({"registered_model": entry.label})
        uri, said = entry.uri, [str(entry)]
    run.log_text(card.markdown(uri), CARD_FILE)
    return uri, said


def register(
    model_uri: str, name: str, card: Card, score: Score, promote: str = "if_better"
) -> Registration:
    """Register a logged model under `name`, with its card as description and as tags.

    promote  `if_better`: champion if there is none, or its score on the same data is worse;
             `always`: champion; `never`: challenger.
    """
    client = mlflow.MlflowClient()
    how = {**score.tags, "promote": promote}
    with explain_store_errors():
        made = mlflow.register_model(model_uri, name, tags=card.tags | how)
        version = int(made.version)
        client.update_model_version(name, made.version, card.markdown(_uri(name, version)))
        is_champion, reason = _settle_aliases(client, name, version)
        alias = CHAMPION if is_champion else CHALLENGER
        client.set_model_version_tag(name, made.version, "registered_as", f"{alias}: {reason}")
    return Registration(name, version, alias, reason)


@dataclass(frozen=True)
class Promotion:
    """Which version is champion by hand, which was before, and why."""

    name: str
    version: int
    before: int | None
    reason: str

    def __str__(self) -> str:
        if self.version == self.before:
            return f"{self.name}: version {self.version} is champion already, nothing has changed"
        before = f"version {self.before} was" if self.before else "there was none"
        return f"{self.name}: version {self.version} is champion ({before}): {self.reason}"

    @property
    def label(self) -> str:
        """As a run's tag has it."""
        return f"{self.name} {self.version} ({CHAMPION})"

    @property
    def undo(self) -> str:
        """How to make the version before it champion again, if there was one."""
        if self.before in (None, self.version):
            return ""
        return (
            "Undo it with  mlflow run . -e promote --env-manager local --experiment-name embedlab "
            f"-P model_name={shlex.quote(self.name)} -P version={self.before} "
            f"-P reason='instead of version {self.version}'"
        )


def set_champion(name: str, wanted: str, reason: str) -> Promotion:
    """Make a version champion, whatever its score: a number, `challenger`, or `previous`, which is
    the one that the present champion replaced.

    It holds against registrations that are under way; of two such promotions the last one does.
    Raises TrackingError where there is no such model or version.
    """
    client = mlflow.MlflowClient()
    with explain_store_errors():
        version = _find_version(client, name, wanted)
        before = _number(_by_alias(client, name, CHAMPION))
        if version != before:
            _make_champion(client, name, version, reason, before)
            _wait_for_registrations(client, name)
            # Again: one that has ended meanwhile may have read the alias as it was before.
            _write(client.set_registered_model_alias, name, CHAMPION, str(version))
            if _number(_by_alias(client, name, CHALLENGER)) == version:
                _set_challenger(client, name, None)
    return Promotion(name, version, before, reason)


def _find_version(client: mlflow.MlflowClient, name: str, wanted: str) -> int:
    versions = _versions(client, name)
    if not versions:
        raise TrackingError(
            f"model_name: expected a registered model with a version, but {store_address()} has no "
            f"{name!r}: register one with fit_embedding, extract_features or finetune and "
            "-P register=true."
        )
    if wanted == CHALLENGER:
        number = _number(_by_alias(client, name, CHALLENGER))
    elif wanted == PREVIOUS:
        champion = _by_alias(client, name, CHAMPION)
        number = champion and champion.tags.get("replaces_version")
    else:
        number = wanted
    if number is not None and int(number) in versions:
        return int(number)

    if number is not None:
        what = "was deleted" if int(number) < max(versions) else "does not exist"
        problem = f"version {number} of {name} {what}"
    elif wanted == PREVIOUS and champion is not None:
        problem = f"the champion of {name}, version {champion.version}, replaced no other"
    else:
        missing = CHALLENGER if wanted == CHALLENGER else CHAMPION
        problem = f"{name} has no {missing} now"
    newest = ", ".join(map(str, sorted(versions, reverse=True)[:NEWEST_SHOWN]))
    raise TrackingError(f"version: {problem}: give a number; its newest versions: {newest}.")


def _make_champion(
    client: mlflow.MlflowClient, name: str, version: int, because: str, replaced: int | None
) -> None:
    tags = {
        "promoted_because": because,
        "promoted_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if replaced is not None:
        tags["replaces_version"] = str(replaced)
    for key, value in tags.items():
        _write(client.set_model_version_tag, name, str(version), key, value)
    _write(client.set_registered_model_alias, name, CHAMPION, str(version))


def _settle_aliases(client: mlflow.MlflowClient, name: str, mine: int) -> tuple[bool, str]:
    """Set both aliases to what comes of all undecided versions; whether `mine` is champion, why."""
    first = None
    for _ in range(MAX_ROUNDS):
        # The versions before the aliases: who comes with a later version reads the aliases later.
        versions = _versions(client, name)
        first = first or min(_undecided(versions, versions[mine].creation_timestamp))
        champion = _by_alias(client, name, CHAMPION)
        found = (_number(champion), _number(_by_alias(client, name, CHALLENGER)))

        competitors = [_candidate(v) for n, v in versions.items() if n >= first and _is_ours(v)]
        outcome = resolve_champion(champion and _candidate(champion), competitors)
        newest = max(candidate.version for candidate in competitors)
        wanted = (outcome.champion, None if newest == outcome.champion else newest)
        if wanted == found:
            is_champion = outcome.champion == mine
            because = champion.tags["promoted_because"] if is_champion else outcome.reasons[mine]
            return is_champion, because
        if outcome.champion != found[0]:
            reason = outcome.reasons[outcome.champion]
            _make_champion(client, name, outcome.champion, reason, outcome.replaced)
        _set_challenger(client, name, wanted[1])
    raise TrackingError(
        f"{name}: its aliases kept changing while version {mine} was registered, which is there: "
        "choose the champion with `mlflow run . -e promote`."
    )


def _set_challenger(client: mlflow.MlflowClient, name: str, version: int | None) -> None:
    if version is None:
        _write(client.delete_registered_model_alias, name, CHALLENGER)
    else:
        _write(client.set_registered_model_alias, name, CHALLENGER, str(version))


def _write(call: Callable[..., None], *args: str) -> None:
    """Set or delete a tag or an alias, also where somebody does the same at the same moment: MLflow
    looks first whether it is there, and the second to insert or delete it gets a BAD_REQUEST."""
    for attempts_left in reversed(range(MAX_ATTEMPTS)):
        try:
            return call(*args)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(BAD_REQUEST) or not attempts_left:
                raise


def _wait_for_registrations(client: mlflow.MlflowClient, name: str) -> None:
    """Until none is under way; not for ever, as one may have been killed."""
    for _ in range(MAX_WAITS):
        if not _undecided(_versions(client, name), time.time() * 1000):
            break
        time.sleep(WAIT_SECONDS)


def _versions(client: mlflow.MlflowClient, name: str) -> dict[int, ModelVersion]:
    """Those that have not been deleted, by number."""
    quote = '"' if "'" in name else "'"
    found = client.search_model_versions(f"name = {quote}{name}{quote}")
    return {int(version.version): version for version in found}


def _undecided(versions: Mapping[int, ModelVersion], now: float) -> list[int]:
    """Versions whose registration is under way at `now`, in milliseconds, or began later."""
    return [
        number
        for number, version in versions.items()
        if _is_ours(version)
        and "registered_as" not in version.tags
        and now - version.creation_timestamp < UNDECIDED_SECONDS * 1000
    ]


def _by_alias(client: mlflow.MlflowClient, name: str, alias: str) -> ModelVersion | None:
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        # A model that does not exist is one code, an alias that does not exist another.
        if error.error_code in map(
            ErrorCode.Name, (RESOURCE_DOES_NOT_EXIST, INVALID_PARAMETER_VALUE)
        ):
            return None
        raise


def _number(version: ModelVersion | None) -> int | None:
    return None if version is None else int(version.version)


def _is_ours(version: ModelVersion) -> bool:
    """Whether `register` made it, and not somebody by hand."""
    return "promote" in version.tags


def _candidate(version: ModelVersion) -> Candidate:
    tags = version.tags  # without ours where somebody registered it by hand
    promote = tags.get("promote", "never")
    digest, score = tags.get("data_digest"), Score.from_tags(tags)
    return Candidate(int(version.version), digest, score, promote)


def _uri(name: str, version: int) -> str:
    return f"models:/{name}/{version}"
