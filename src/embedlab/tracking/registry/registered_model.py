"""One model of MLflow's registry: find its versions, wait for them, tag them, set its aliases."""

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, ErrorCode

from embedlab.errors import TrackingError
from embedlab.tracking.registry.promotion import PromotionMetric, RegisteredVersion, should_promote
from embedlab.tracking.store import store_address

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
POLL_SECONDS = 0.1
MAX_ATTEMPTS = 5  # of one write
NEWEST_SHOWN = 10


class RegisteredModel:
    """The versions of a model, by number, and its aliases `champion` and `challenger`."""

    def __init__(self, name: str):
        self.name, self.client = name, mlflow.MlflowClient()

    def versions(self) -> dict[int, ModelVersion]:
        """The versions that have not been deleted, by number, in ascending order."""
        quote = '"' if "'" in self.name else "'"
        versions = self.client.search_model_versions(f"name = {quote}{self.name}{quote}")
        return dict(sorted((int(version.version), version) for version in versions))

    def by_alias(self, alias: str) -> RegisteredVersion | None:
        """The version with this alias; None if the alias is unset."""
        number = self.client.get_registered_model(self.name).aliases.get(alias)
        if number is None:
            return None
        return registered_version(self.client.get_model_version(self.name, str(number)))

    def find(self, wanted: str) -> int:
        """The number of a version, as `promote_version` takes it. Raises TrackingError if none."""
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
        if replaced := version.tags.get("replaces_version"):
            return int(replaced), ""
        return None, f"the champion of {self.name}, version {version.version}, replaced no other"

    def wait_for_registrations(
        self, seconds: float, since: float, below: float = math.inf
    ) -> list[RegisteredVersion]:
        """Wait until all versions below `below` are decided, or for `seconds` without a decision.

        Versions made before `since` (ms since 1970) are ignored. Returns the versions that are
        still undecided, by number: their processes count as killed.
        """
        waiting, end = None, 0.0
        while True:
            undecided = [
                registered_version(version)
                for number, version in self.versions().items()
                if number < below
                and "promote" in version.tags  # else it was registered by hand
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
        if champion and champion.version == new.version:  # its process was killed during `decide`
            is_champion, reason = True, champion.tags["promoted_because"]
        else:
            is_champion, reason = should_promote(new, champion, metric)
            if is_champion:
                self.make_champion(new.version, reason, champion)
        self.set_alias(CHALLENGER, None if is_champion else new.version)
        alias = CHAMPION if is_champion else CHALLENGER
        self.tag(new.version, registered_as=f"{alias}: {reason}")
        return alias, reason

    def make_champion(self, version: int, reason: str, previous: RegisteredVersion | None) -> None:
        """Set the alias `champion`, after the tags that say why, when and in whose place."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.tag(version, promoted_because=reason, promoted_at=now)
        if previous:
            self.tag(version, replaces_version=str(previous.version))
        self.set_alias(CHAMPION, version)

    def tag(self, version: int, **tags: str) -> None:
        """Set tags of a version."""
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

    MLflow first checks whether the tag or alias exists, so the second process to insert or delete
    it gets a BAD_REQUEST.
    """
    for attempts_left in reversed(range(MAX_ATTEMPTS)):
        try:
            return call(*args)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(BAD_REQUEST) or not attempts_left:
                raise


def registered_version(version: ModelVersion) -> RegisteredVersion:
    """MLflow's version, as the promotion rule sees it."""
    return RegisteredVersion(int(version.version), version.tags)
