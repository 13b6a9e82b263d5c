"""The model registry: a new version is a challenger, and champion only if it earns it.

Two aliases: `champion` answers `recommend` and `mlflow models serve`, `challenger` is the newest
version that has not replaced it. Scores are compared only on equal data, by its digest.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from embedlab.tracking.promotion import Champion, Score, wins
from embedlab.tracking.store import explain_store_errors

CHAMPION, CHALLENGER = "champion", "challenger"


@dataclass(frozen=True)
class Registration:
    """A new version, the alias it got, and why, in words."""

    name: str
    version: str
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
        return f"models:/{self.name}@{self.alias}"


def register(
    model_uri: str,
    name: str,
    data_digest: str,
    score: Score,
    promote: str = "if_better",
    tags: Mapping[str, object] | None = None,
) -> Registration:
    """Register a logged model under `name`.

    promote  `if_better`: champion if there is none, or its score on the same data is worse;
             `always`: champion; `never`: challenger.
    """
    client = mlflow.MlflowClient()
    with explain_store_errors():
        champion = _champion(client, name, score.name)
        all_tags = {"data_digest": data_digest, score.name: repr(score.value), **(tags or {})}
        version = mlflow.register_model(
            model_uri, name, tags={key: str(value) for key, value in all_tags.items()}
        ).version
        is_champion, reason = wins(champion, data_digest, score, promote)
        client.set_registered_model_alias(name, CHALLENGER, version)
        if is_champion:
            client.set_registered_model_alias(name, CHAMPION, version)
            client.delete_registered_model_alias(name, CHALLENGER)
            if champion is not None:
                client.set_model_version_tag(name, version, "replaces_version", champion.version)
    return Registration(name, str(version), CHAMPION if is_champion else CHALLENGER, reason)


def _champion(client: mlflow.MlflowClient, name: str, score: str) -> Champion | None:
    try:
        version = client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        # A model that does not exist is one code, an alias that does not exist another.
        if error.error_code in (
            ErrorCode.Name(RESOURCE_DOES_NOT_EXIST),
            "INVALID_PARAMETER_VALUE",
        ):
            return None
        raise
    tags = version.tags  # without ours where somebody registered it by hand
    value = float(tags.get(score, "nan"))
    return Champion(version.version, tags.get("data_digest"), Score(score, value))
