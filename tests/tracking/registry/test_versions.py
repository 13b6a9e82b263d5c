"""Versions of a registered model: which is champion, and what the registry says about it."""

import re
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from cards import card_of
from conftest import fresh_store
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR

from embedlab.errors import TrackingError
from embedlab.tracking.lifecycle import start_run
from embedlab.tracking.registry.promotion import PromotionScore
from embedlab.tracking.registry.versions import Registration, promote_version, publish, register
from embedlab.workflows.model_facts import VAL_ACCURACY
from embedlab.workflows.movies.model import log_movie_model

pytestmark = pytest.mark.slow

MOVIES = pd.DataFrame(
    {
        "movie_id": [1, 3114],
        "title": ["Toy Story (1995)", "Toy Story 2 (1999)"],
        "genres": ["Animation", "Animation"],
        "likes": [2, 1],
    }
)


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """The URI of a logged model; the registry does not depend on its content."""
    with fresh_store(tmp_path_factory.mktemp("store")):
        with start_run("fit_embedding", "fit", {}) as run:
            uri = log_movie_model(run, np.eye(2, dtype=np.float32), MOVIES, {})
        yield uri


class Registry:
    """A registered model of one test; its version 1, if any, has the cost 100 on data `a`."""

    def __init__(self, name: str, uri: str):
        self.name, self.uri, self.client = name, uri, mlflow.MlflowClient()

    def add(self, cost: float, digest: str = "a", promote: str = "if_better") -> Registration:
        return register(self.uri, self.name, card_of(digest, cost), promote)

    def add_by_hand(self) -> None:
        mlflow.register_model(self.uri, self.name)

    @property
    def aliases(self) -> dict[str, str]:
        versions = self.client.get_registered_model(self.name).aliases
        return {alias: str(version) for alias, version in versions.items()}

    def tags(self, version: str) -> dict[str, str]:
        return self.client.get_model_version(self.name, version).tags


@pytest.fixture
def empty(logged, request) -> Registry:
    return Registry(request.node.name.replace("/", "-"), logged)


@pytest.fixture
def registry(empty) -> Registry:
    empty.add(cost=100)
    return empty


def test_the_first_version_is_champion_and_answers(empty):
    entry = empty.add(cost=100.25)
    assert entry == Registration(empty.name, 1, "champion", "there was no champion")
    assert entry.uri == f"models:/{empty.name}@champion"
    assert empty.aliases == {"champion": "1"}
    answer = mlflow.pyfunc.load_model(entry.uri).predict(pd.DataFrame({"title": ["toy story"]}))
    assert answer["title"].tolist() == ["Toy Story 2 (1999)"]


def test_a_version_has_tags_for_its_data_code_parameters_and_scores(empty):
    card = card_of("a", 100.25, trained={"optimizer": "adam", "dim": "20"}, metrics={"gap": 0.1})
    register(empty.uri, empty.name, card)
    tags = empty.tags("1")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", tags.pop("promoted_at"))
    assert tags == {
        "data_digest": "a",
        "entry_point": "fit_embedding",
        "git.commit": "c0ffee",
        "git.dirty": "false",
        "optimizer": "adam",
        "dim": "20",
        "gap": "0.1",
        "cost": "100.25",
        "judged_by": "cost",
        "promote": "if_better",
        "promoted_because": "there was no champion",
        "registered_as": "champion: there was no champion",
    }
    version = empty.client.get_model_version(empty.name, "1")
    assert version.description == card.markdown(f"models:/{empty.name}/1")
    assert version.run_id == mlflow.models.get_model_info(empty.uri).run_id


def test_a_model_says_what_it_is_unless_somebody_has_said_it(empty):
    empty.add(100)
    assert empty.client.get_registered_model(empty.name).description == card_of("a").summary
    empty.client.update_registered_model(empty.name, "ours")
    empty.add(99)
    assert empty.client.get_registered_model(empty.name).description == "ours"


def test_a_challenger_has_a_tag_with_the_reason_and_none_of_a_promotion(registry):
    entry = registry.add(cost=101)
    assert registry.tags("2")["registered_as"] == f"challenger: {entry.reason}"
    assert {"promoted_because", "promoted_at"}.isdisjoint(registry.tags("2"))


@pytest.mark.parametrize("name", ["it's", 'a "good" one', "two words", "ünïcode"])
def test_names_with_quotes_spaces_and_accents_are_registered(logged, name):
    model = Registry(name, logged)
    model.add(cost=100)
    assert model.add(cost=99).alias == "champion"


def test_a_lower_cost_on_the_same_data_replaces_the_champion(registry):
    entry = registry.add(cost=99)
    assert (entry.version, entry.alias) == (2, "champion")
    assert re.fullmatch("its cost 99 is below .*100 of version 1", entry.reason)
    assert registry.aliases == {"champion": "2"}
    assert registry.tags("2")["replaces_version"] == "1"
    assert "replaces_version" not in registry.tags("1")


@pytest.mark.parametrize("cost", [100, 101])
def test_an_equal_or_higher_cost_becomes_challenger(registry, cost):
    entry = registry.add(cost=cost)
    assert (entry.version, entry.alias) == (2, "challenger")
    assert entry.uri == f"models:/{registry.name}/2"
    assert re.fullmatch(f"its cost {cost} is not below .*100 of version 1", entry.reason)
    assert registry.aliases == {"champion": "1", "challenger": "2"}
    assert "replaces_version" not in registry.tags("2")


def test_costs_are_compared_before_rounding(registry):
    """The reason shows whole numbers, but smaller differences decide, too."""
    assert registry.add(cost=99.9999).alias == "champion"


def test_the_newest_challenger_has_the_alias_until_one_replaces_the_champion(registry):
    registry.add(cost=102)
    registry.add(cost=101)
    assert registry.aliases == {"champion": "1", "challenger": "3"}
    registry.add(cost=50)
    assert registry.aliases == {"champion": "4"}
    registry.add(cost=60)  # better than version 1, not than version 4
    assert registry.aliases == {"champion": "4", "challenger": "5"}


def test_costs_on_other_data_are_not_compared(registry):
    entry = registry.add(cost=1, digest="b")
    assert (entry.version, entry.alias) == (2, "challenger")
    assert entry.reason == (
        "the champion, version 1, was made with other data, and its cost there says nothing about "
        "this one's; promote=always makes the new one champion"
    )
    assert registry.aliases == {"champion": "1", "challenger": "2"}


def test_a_champion_that_somebody_else_registered_is_not_compared_either(empty):
    """It has no tags, so its data and its cost are unknown."""
    empty.add_by_hand()
    empty.client.set_registered_model_alias(empty.name, "champion", "1")
    entry = empty.add(cost=1)
    assert entry.alias == "challenger"
    assert "was made with other data" in entry.reason


def test_another_score_is_not_compared(registry):
    card = card_of("a", score=PromotionScore(VAL_ACCURACY, 0.9))
    entry = register(registry.uri, registry.name, card)
    assert (entry.version, entry.alias) == (2, "challenger")
    assert entry.reason == (
        "the champion, version 1, was judged by cost, this one by val_accuracy; "
        "promote=always makes the new one champion"
    )


@pytest.mark.parametrize(("cost", "digest"), [(101, "a"), (1, "b")])
def test_promote_always_replaces_the_champion(registry, cost, digest):
    entry = registry.add(cost, digest, promote="always")
    assert (entry.version, entry.alias) == (2, "champion")
    assert entry.reason == "promote=always, in place of version 1"
    assert registry.aliases == {"champion": "2"}
    assert registry.tags("2")["replaces_version"] == "1"


def test_promote_never_registers_a_challenger_even_without_a_champion(empty):
    entry = empty.add(cost=1, promote="never")
    assert (entry.alias, entry.reason) == ("challenger", "promote=never")
    assert empty.aliases == {"challenger": "1"}
    assert empty.add(cost=2).reason == "there was no champion"
    assert empty.aliases == {"champion": "2"}
    assert empty.add(cost=1, promote="never").alias == "challenger"
    assert empty.aliases == {"champion": "2", "challenger": "3"}


def test_the_next_version_after_a_deleted_champion_is_champion(registry):
    registry.client.delete_model_version(registry.name, "1")
    entry = registry.add(cost=200)
    assert (entry.version, entry.alias) == (2, "champion")
    assert entry.reason == "there was no champion"
    assert registry.aliases == {"champion": "2"}
    assert "replaces_version" not in registry.tags("2")


def test_a_registry_that_fails_does_not_count_as_one_without_a_champion(registry, monkeypatch):
    def refuse(*_):
        raise MlflowException("out of order", error_code=INTERNAL_ERROR)

    with monkeypatch.context() as broken:
        broken.setattr(mlflow.MlflowClient, "get_registered_model", refuse)
        with pytest.raises(TrackingError, match=r"reports: out of order$"):
            registry.add(cost=1)
    assert registry.aliases == {"champion": "1"}


def test_a_model_that_is_not_there_is_one_sentence(registry):
    with pytest.raises(
        TrackingError, match=r"^MLflow at sqlite:///\S+ reports: .*no-such.*$"
    ) as error:
        register("models:/m-no-such", registry.name, card_of("a"))
    assert "\n" not in str(error.value)
    assert registry.aliases == {"champion": "1"}
    assert registry.tags("1")["cost"] == "100"
    assert Path("mlflow.db").is_file()  # in the store of this test


@pytest.mark.parametrize(
    ("value", "reason"), [(np.nan, "length nan"), (1e30, "must be finite and shorter than 1.8e19")]
)
def test_a_model_that_does_not_answer_its_own_example_is_never_registered(logged, value, reason):
    with start_run("fit_embedding", "fit", {}) as run:
        uri = log_movie_model(run, np.full((2, 2), value, np.float32), MOVIES, {})
        sentence = f"does not answer its own input example .*{reason}.*was not registered"
        with pytest.raises(TrackingError, match=sentence):
            params = {"register": True, "model_name": "unanswered", "promote": "if_better"}
            publish(run, uri, card_of("a"), params, "the result", "Query")
    with pytest.raises(MlflowException, match="not found"):
        mlflow.MlflowClient().get_registered_model("unanswered")


# -- promotion by hand -------------------------------------------------------------------------


@pytest.fixture
def three_versions(registry) -> Registry:
    """Version 2 is champion in place of version 1, and version 3 is challenger."""
    registry.add(cost=90)
    registry.add(cost=95)
    return registry


def test_promoting_previous_twice_restores_the_champion(three_versions):
    assert promote_version(three_versions.name, "previous", "a look").version == 1
    assert promote_version(three_versions.name, "previous", "back").version == 2


def test_a_challenger_that_is_promoted_loses_the_alias_challenger(three_versions):
    promotion = promote_version(three_versions.name, "challenger", "it reads best")
    assert (promotion.version, promotion.previous) == (3, 2)
    assert three_versions.aliases == {"champion": "3"}


def test_the_next_version_has_to_beat_the_one_that_is_champion_now(three_versions):
    promote_version(three_versions.name, "1", "odd films")
    entry = three_versions.add(cost=99)  # above version 2's
    assert entry.reason == "its cost 99 is below the 100 of version 1"
    assert three_versions.aliases == {"champion": "4"}


def test_the_number_of_a_deleted_version_is_not_used_again(three_versions):
    three_versions.client.delete_model_version(three_versions.name, "3")
    assert three_versions.add(cost=99).version == 4
