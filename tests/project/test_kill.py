"""A short run of the kill harness, whose full runs docs/reliability.md describes."""

import random
import subprocess
import sys

import pytest
from conftest import PROJECT, long

from tests.kill import Kill, as_table, commands, run_kills
from tests.kill_workspace import Workspace, differences

ENTRY_POINTS = {path.stem for path in (PROJECT / "entrypoints").glob("[!_]*.py")}


def test_every_entry_point_is_killed(tmp_path):
    assert {command.entry_point for command in commands(tmp_path)} == ENTRY_POINTS


def test_the_command_of_the_docs_starts():
    done = subprocess.run(
        [sys.executable, "-m", "tests.kill", "--help"], cwd=PROJECT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "--kills" in done.stdout


@long
@pytest.mark.slow
def test_a_few_kills_are_survived(tmp_path):
    # Seed 25 gives SIGKILL to the group, then SIGTERM, each after the run has begun.
    kills, left = run_kills(tmp_path, 2, seed=25, names=["build_matrix, downloading"])
    assert [str(kill) for kill in kills if kill.faults] == []
    assert left == ""


def test_a_difference_is_seen():
    expected = {"a": 1.0, "b": 2.0}
    assert differences(dict(expected), expected) == ""
    assert differences({"a": 1.5, "b": 2.0}, expected) == "a: 1.5, not 1.0"
    assert differences({"a": 1.0}, expected) == "b: None, not 2.0"
    assert differences(expected | {"c": 3.0}, expected) == "c"


def test_files_are_taken_away_and_leftovers_and_checkpoints_are_not(tmp_path):
    workspace = Workspace(tmp_path / "workspace", "")
    names = [f"features/{n}/train.npy" for n in range(20)]
    kept = [".building-1@host-x/built/train.npy", "checkpoints/run/last.pt"]
    for name in (*names, *kept):
        path = workspace.cache / name
        path.parent.mkdir(parents=True)
        path.write_text(name)
    assert set(workspace.cached()) == set(names)
    workspace.take_away(random.Random(0))
    assert 0 < len(workspace.cached()) < len(names)
    assert all((workspace.cache / name).exists() for name in kept)


def test_the_table_counts_what_was_tried_and_what_survived():
    kills = [
        Kill("finetune", "SIGINT", "process", 1, 2, ["KILLED (ctrl-c)"]),
        Kill("finetune", "SIGKILL", "group", 1, 2, ["RUNNING (no word)"], ["another cache"]),
        Kill("recommend", "SIGKILL", "group", 1, 2),
    ]
    lines = as_table(kills).splitlines()
    assert "| finetune | 1 of 1 | – | 0 of 1 | 1 of 2 |" in lines
    assert "| all | 1 of 1 | – | 1 of 2 | 2 of 3 |" in lines
    assert "| group | – | – | 1 of 2 |" in lines
    assert "| no run yet | 0 | 0 | 1 |" in lines
