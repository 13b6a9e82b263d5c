"""A registry in memory that guarantees no more than MLflow does."""

import time
from collections.abc import Callable
from types import SimpleNamespace

from cards import card_of

from embedlab.tracking.registry import registered_model, versions
from embedlab.tracking.registry.versions import Registration, register

NAME = "movie-embedding"


def _copy_of(version: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(**vars(version) | {"tags": dict(version.tags)})


class Memory:
    """One registered model, as MLflow's client has it; `before` is called before every call."""

    def __init__(self, before: Callable[[], None] = lambda: None):
        self.before = before
        self.versions: dict[int, SimpleNamespace] = {}
        self.aliases: dict[str, int] = {}
        self.description = ""

    def MlflowClient(self) -> "Memory":
        return self

    def register_model(self, _uri: str, _name: str, tags: dict[str, str]) -> SimpleNamespace:
        self.before()
        number = len(self.versions) + 1
        made = SimpleNamespace(
            version=str(number), tags=dict(tags), creation_timestamp=time.time() * 1000
        )
        self.versions[number] = made
        return made

    def update_model_version(self, _name: str, _version: str, _description: str) -> None:
        self.before()

    def search_model_versions(self, _filter: str) -> list[SimpleNamespace]:
        self.before()
        return [_copy_of(version) for version in self.versions.values()]

    def get_registered_model(self, _name: str) -> SimpleNamespace:
        self.before()
        return SimpleNamespace(aliases=dict(self.aliases), description=self.description)

    def update_registered_model(self, _name: str, description: str) -> None:
        self.before()
        self.description = description

    def get_model_version(self, _name: str, version: str) -> SimpleNamespace:
        self.before()
        return _copy_of(self.versions[int(version)])

    def set_registered_model_alias(self, _name: str, alias: str, version: str) -> None:
        self.before()
        self.aliases[alias] = int(version)

    def delete_registered_model_alias(self, _name: str, alias: str) -> None:
        self.before()
        self.aliases.pop(alias, None)

    def set_model_version_tag(self, _name: str, version: str, key: str, value: str) -> None:
        self.before()
        self.versions[int(version)].tags[key] = value


def replace_mlflow(monkeypatch) -> Callable[[Memory], Memory]:
    """A fixture that replaces MLflow by a registry in memory, polled without a pause."""
    monkeypatch.setattr(registered_model, "POLL_SECONDS", 0)

    def use(memory: Memory) -> Memory:
        for module in (versions, registered_model):
            monkeypatch.setattr(module, "mlflow", memory)
        return memory

    return use


def memory_with_champion(use) -> Memory:
    """A fixture: a registry in memory whose version 1 has the cost 100 on data `a`."""
    made = use(Memory())
    add(100)
    return made


def add(cost: float, digest: str = "a", promote: str = "if_better") -> Registration:
    return register("uri", NAME, card_of(digest, cost), promote)
