"""Checkpoints: complete or the previous one, for the same parameters, refused if damaged."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import fresh_store

from embedlab.errors import DataError, OptionError
from embedlab.vision.training.checkpoint import Checkpoints
from entrypoints import finetune


def test_a_checkpoint_is_whole_or_the_one_before(monkeypatch):
    checkpoints = Checkpoints("run")
    checkpoints.save({"epoch": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(DataError, match=r"No space left on device.*make room"):
            checkpoints.save({"epoch": 2})
    assert checkpoints.load() == {"epoch": 1}
    assert [path.name for path in checkpoints.folder.iterdir()] == ["last.pt"]
    checkpoints.delete()
    assert not checkpoints.folder.exists()


def test_the_checkpoints_of_all_stopped_parts_go_with_the_last_ones():
    for run_id, resumed in (("first", ""), ("second", "first"), ("third", "second"), ("other", "")):
        Checkpoints(run_id, resumed).save({"epoch": 1})
    Checkpoints("third").delete()
    assert [path.name for path in Checkpoints("other").folder.parent.iterdir()] == ["other"]


def test_a_note_of_the_resumed_run_that_a_power_failure_emptied_deletes_no_others():
    Checkpoints("other").save({"epoch": 1})
    broken = Checkpoints("broken", "first")
    broken.save({"epoch": 1})
    (broken.folder / "resumed.txt").write_text("")
    broken.delete()
    assert Checkpoints("other").load() == {"epoch": 1}
    assert not broken.folder.exists()


def test_resume_of_a_run_without_a_checkpoint_says_so():
    with pytest.raises(DataError, match=r"resume: run nothing has no checkpoint in"):
        Checkpoints("nothing").load()


@pytest.fixture(scope="module")
def store_folder(tmp_path_factory) -> Path:
    """A folder for a store that several tests share: making its tables takes seconds."""
    return tmp_path_factory.mktemp("store")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--epochs", "3"], r"epochs: expected 2, the value in resume=\w+, got 3: leave"),
        (["--recipe", "notebook"], "recipe: expected fast, .* got notebook"),
        (["--dataset", "folder:{folder}"], "dataset: expected sample, .* got folder:"),
        (["--lr", "0.5", "--epochs", "2"], "lr: expected 0.01, .* got 0.5"),  # of the recipe
    ],
)
def test_a_parameter_that_contradicts_the_resumed_run_is_refused(
    tmp_path, store_folder, arguments, sentence
):
    settings = vars(finetune.build_parser().parse_args([]))
    settings = {name: settings[name] for name in finetune.CHECKPOINTED_PARAMETERS}
    settings |= {"dataset": "sample", "weights": "none", "epochs": 2, "precision": "float32"}
    settings["recipe"] = "fast"
    del settings["head"], settings["batch_norm"]  # as an earlier version saved it
    run_id = "0123456789abcdef" * 2
    Checkpoints(run_id).save({"settings": settings})
    arguments = [word.format(folder=tmp_path) for word in arguments]
    with fresh_store(store_folder), pytest.raises(OptionError, match=sentence):
        finetune.main(["--resume", run_id, *arguments])


def test_a_damaged_checkpoint_is_refused_or_has_lost_nothing():
    """It is truncated, or one bit is changed, which torch itself would mostly not notice."""
    state = {"epoch": 1, "name": "sgd", "weights": torch.arange(500.0)}
    checkpoints = Checkpoints("run")
    checkpoints.save(state)
    whole, rng, n_refused = checkpoints.file.read_bytes(), np.random.default_rng(0), 0
    damaged = [whole[:size] for size in rng.integers(len(whole), size=30)]
    for position in rng.integers(len(whole), size=170):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << rng.integers(8)
        damaged.append(bytes(flipped))
    for content in damaged:
        checkpoints.file.write_bytes(content)
        try:
            loaded = checkpoints.load()
        except DataError as error:
            assert re.search(r"last\.pt is damaged \(\w+\); start anew", str(error))
            n_refused += 1
        else:  # the bit is in none of the values
            assert torch.equal(loaded.pop("weights"), state["weights"])
            assert loaded == {"epoch": 1, "name": "sgd"}
    assert n_refused > 150
