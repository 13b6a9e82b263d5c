"""Finished image runs: which are found, and what is said where none are."""

from types import SimpleNamespace

import pytest

from embedlab.errors import TrackingError
from embedlab.workflows import finished_image_runs


@pytest.mark.parametrize(("n", "text"), [(1, "found 1 finished run "), (2, "2 finished runs ")])
def test_finished_runs_without_a_pair_are_one_or_several(monkeypatch, n, text):
    run = SimpleNamespace(data=SimpleNamespace(tags={"entry_point": "finetune"}))
    monkeypatch.setattr(finished_image_runs, "newest_finished", lambda *_: [run] * n)
    with pytest.raises(TrackingError, match=text):
        finished_image_runs.best_pair("1")
