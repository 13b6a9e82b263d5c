"""Writes of aliases that MLflow refuses because another process wrote at the same moment."""

import mlflow
import pytest
from memory_registry import Memory, add, memory_with_champion, replace_mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INTERNAL_ERROR

from embedlab.errors import TrackingError
from embedlab.tracking.registry import registered_model

use = pytest.fixture(replace_mlflow)
memory = pytest.fixture(memory_with_champion)


def collisions(memory: Memory, monkeypatch, code: int, times: int) -> None:
    """Let the next `times` attempts to set an alias fail with MLflow's error `code`."""
    left = [MlflowException("UNIQUE constraint failed", error_code=code)] * times
    set_alias = memory.set_registered_model_alias

    def set_or_collide(*args):
        if left:
            raise left.pop()
        set_alias(*args)

    monkeypatch.setattr(memory, "set_registered_model_alias", set_or_collide)


def test_a_write_that_collided_is_tried_again(memory, monkeypatch):
    collisions(memory, monkeypatch, BAD_REQUEST, times=registered_model.MAX_ATTEMPTS - 1)
    assert add(99).alias == "champion"


@pytest.mark.parametrize(
    ("code", "times"), [(BAD_REQUEST, registered_model.MAX_ATTEMPTS), (INTERNAL_ERROR, 1)]
)
def test_a_write_that_goes_on_to_fail_is_one_sentence(memory, monkeypatch, code, times):
    collisions(memory, monkeypatch, code, times)
    monkeypatch.setattr(memory, "get_tracking_uri", mlflow.get_tracking_uri, raising=False)
    with pytest.raises(TrackingError, match=r"reports: UNIQUE constraint failed$"):
        add(99)
    assert memory.aliases == {"champion": 1}
