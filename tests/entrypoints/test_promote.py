"""The entry point `promote`: rollback, and versions that cannot be promoted."""

import os
import re
import shlex
import subprocess

import mlflow
import numpy as np
import pandas as pd
import pytest
from cards import card_of
from conftest import PROJECT, fresh_store, long

from embedlab.errors import TrackingError
from embedlab.tracking.lifecycle import start_run
from embedlab.tracking.registry.versions import register
from embedlab.workflows.movies.model import log_movie_model
from embedlab.workflows.movies.recommend import load_model
from entrypoints.promote import main as promote

pytestmark = pytest.mark.slow

DOC = (PROJECT / "docs" / "registry.md").read_text(encoding="utf-8")
NAME = "movie-embedding"
MOVIES = pd.DataFrame({"movie_id": [1], "title": ["Alien (1979)"], "genres": [""], "likes": [1]})


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """The URI of a logged model, in a store of its own."""
    with fresh_store(tmp_path_factory.mktemp("store")):
        with start_run("fit_embedding", "fit", {}) as run:
            uri = log_movie_model(run, np.ones((1, 1), dtype=np.float32), MOVIES, {})
        yield uri


@pytest.fixture
def client(logged):
    """Client of a registry: version 2 is champion in place of version 1, version 3 challenger."""
    for cost in (100.0, 90.0, 95.0):
        register(logged, NAME, card_of("a", cost))
    client = mlflow.MlflowClient()
    yield client
    client.delete_registered_model(NAME)


def aliases(client) -> dict[str, str]:
    versions = client.get_registered_model(NAME).aliases
    return {alias: str(version) for alias, version in versions.items()}


def newest_run(client):
    return client.search_runs(["1"], order_by=["start_time DESC"])[0]


def test_rollback_says_what_has_changed_and_how_to_undo_it(client, capsys):
    promote(["--version", "previous", "--reason", "odd films"])
    assert aliases(client) == {"champion": "1", "challenger": "3"}
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{NAME}: version 1 is champion (version 2 was): odd films"
    undo = shlex.split(said[1].removeprefix("Undo it with  "))
    assert undo[:5] == ["mlflow", "run", str(PROJECT), "-e", "promote"]

    tags = client.get_model_version(NAME, "1").tags
    assert (tags["promoted_because"], tags["replaces_version"]) == ("odd films", "2")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", tags["promoted_at"])
    run = newest_run(client)
    assert run.info.run_name == f"promote {NAME} previous"
    assert run.data.params == {"model_name": NAME, "version": "previous", "reason": "odd films"}
    assert run.data.tags["registered_model"] == f"{NAME} 1 (champion)"
    assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/promotion.txt") == (
        "\n".join(said) + "\n"
    )

    options = [undo[i + 1].partition("=") for i, word in enumerate(undo) if word == "-P"]
    promote([word for name, _, value in options for word in (f"--{name.replace('_', '-')}", value)])
    assert aliases(client) == {"champion": "2", "challenger": "3"}


def test_promoting_the_champion_changes_nothing(client, capsys):
    before = client.get_model_version(NAME, "2").tags
    promote(["--version", "2", "--reason", "to be sure"])
    assert capsys.readouterr().out == (
        f"{NAME}: version 2 is champion already, nothing has changed\n"
    )
    assert client.get_model_version(NAME, "2").tags == before
    assert newest_run(client).info.status == "FINISHED"


def test_a_missing_champion_is_set_again(client, capsys):
    client.delete_registered_model_alias(NAME, "champion")
    promote(["--version", "2", "--reason", "the alias was gone"])
    assert aliases(client) == {"champion": "2", "challenger": "3"}
    assert capsys.readouterr().out == (
        f"{NAME}: version 2 is champion (there was none): the alias was gone\n"
    )


def test_without_a_champion_recommend_says_so(client):
    client.delete_model_version(NAME, "2")  # and MLflow its alias
    assert aliases(client) == {"challenger": "3"}
    with pytest.raises(TrackingError, match=r"@champion' cannot .* champion not found"):
        load_model(f"models:/{NAME}@champion")


def without_challenger(client):
    client.delete_registered_model_alias(NAME, "challenger")


def without_champion(client):
    client.delete_registered_model_alias(NAME, "champion")


def with_the_first(client):
    client.delete_model_version_tag(NAME, "2", "replaces_version")


def without_version_1(client):
    client.delete_model_version(NAME, "1")


THREE, TWO = "newest versions: 3, 2, 1.", "newest versions: 3, 2."


@pytest.mark.parametrize(
    ("prepare", "wanted", "sentence"),
    [
        (None, "4", f"version 4 of {NAME} does not exist: give a number; its {THREE}"),
        (without_version_1, "1", f"version 1 of {NAME} was deleted: give a number; its {TWO}"),
        (
            without_version_1,
            "previous",
            f"version 1 of {NAME} was deleted: give a number; its {TWO}",
        ),
        (
            without_challenger,
            "challenger",
            f"{NAME} has no challenger now: give a number; its {THREE}",
        ),
        (without_champion, "previous", f"{NAME} has no champion now: give a number; its {THREE}"),
        (
            with_the_first,
            "previous",
            f"the champion of {NAME}, version 2, replaced no other: give a number; its {THREE}",
        ),
    ],
)
def test_promoting_a_missing_version_is_one_sentence_and_changes_nothing(
    client, prepare, wanted, sentence
):
    if prepare:
        prepare(client)
    before = aliases(client)
    with pytest.raises(TrackingError) as refused:
        promote(["--version", wanted, "--reason", "why not"])
    assert str(refused.value) == f"version: {sentence}"
    assert aliases(client) == before
    run = newest_run(client)
    assert (run.info.status, run.data.tags["stop_reason"]) == ("FAILED", "error")


def test_a_model_that_is_not_there_is_one_sentence(client):
    with pytest.raises(TrackingError, match=r"^model_name: .* has no 'films': register one by"):
        promote(["--model-name", "films", "--version", "1", "--reason", "why not"])


# -- docs/registry.md --------------------------------------------------------------------------


@long
def test_the_commands_of_the_page_do_what_it_says(tmp_path):
    blocks = re.findall(r"```bash\n(.*?)```", DOC, flags=re.DOTALL)
    commands = "".join(blocks).replace("\\\n", " ").splitlines()
    environment = {name: value for name, value in os.environ.items() if "MLFLOW_" not in name}
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "TMPDIR": str(tmp_path)}
    with fresh_store(tmp_path) as client:
        seen = []
        for command in commands:
            words = [str(PROJECT) if word == "." else word for word in shlex.split(command)]
            ended = subprocess.run(
                words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
            )
            assert ended.returncode == 0, ended.stderr
            seen.append(aliases(client))
    first, better, worse = seen[:3]
    assert first == {"champion": "1"}
    assert better == {"champion": "2"}
    assert worse == {"champion": "2", "challenger": "3"}
    assert seen[3] == worse  # recommend
    assert seen[4] == {"champion": "1", "challenger": "3"}
    assert seen[5] == {"champion": "3"}
    assert seen[6] == {"champion": "2"}
    assert len(seen) == 7


def test_the_page_names_every_tag_that_a_version_carries(client):
    table = DOC.partition("| tag |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`([\w.]+)`", table)) | {"cost"}
    tags = set(client.get_model_version(NAME, "2").tags) - {"promote", "dim"}
    assert tags <= named
