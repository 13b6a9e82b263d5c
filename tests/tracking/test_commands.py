"""Printed commands: they work in the folder of the store."""

import pytest
from conftest import PROJECT, use_store

from embedlab.tracking.project import command


@pytest.mark.parametrize(
    ("store", "project"),
    [
        (f"sqlite:///{PROJECT}/mlflow.db", "."),
        (f"sqlite:///{PROJECT}/docs/../mlflow.db", "."),
        ("http://127.0.0.1:5000", "."),
        ("postgresql://here/runs", "."),
        ("sqlite:////somewhere/else/mlflow.db", str(PROJECT)),
    ],
)
def test_a_command_finds_the_store_from_where_it_is_called(store, project):
    with use_store(store):
        assert command("recommend").split()[:4] == ["mlflow", "run", project, "-e"]
