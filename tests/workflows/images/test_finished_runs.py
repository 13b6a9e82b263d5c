"""Finished image runs: which are found, and the error if there are none."""

from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import pytest
from small_image_runs import image_run

from embedlab.errors import TrackingError
from embedlab.workflows.images import finished_runs
from embedlab.workflows.images.finished_runs import find_image_runs


@pytest.mark.parametrize(("n", "text"), [(1, "found 1 finished run "), (2, "2 finished runs ")])
def test_finished_runs_without_a_pair_are_one_or_several(monkeypatch, n, text):
    run = SimpleNamespace(data=SimpleNamespace(tags={"entry_point": "finetune"}))
    monkeypatch.setattr(finished_runs, "newest_finished", lambda *_: [run] * n)
    with pytest.raises(TrackingError, match=text):
        finished_runs.best_pair("1")


@pytest.mark.slow
def test_of_runs_with_equal_accuracy_the_one_with_the_lower_loss_is_compared(store):
    kinds = {"extract_features": (0.8, 0.3, None), "finetune": (0.5, 0.4, 0.6)}
    runs = {
        (kind, loss): image_run(kind, 0.9, loss)
        for kind, losses in kinds.items()
        for loss in losses
    }
    for run in runs.values():
        with TemporaryDirectory() as folder:
            ones = np.ones((1, 10)) / 10
            np.savez(f"{folder}/test.npz", probabilities=ones, labels=[0], rows=[0])
            store.log_artifact(run.id, f"{folder}/test.npz", "predictions")
    compared = find_image_runs(run.experiment_id, ())
    wanted = [runs["extract_features", 0.3], runs["finetune", 0.4]]
    assert [item.id for item in compared] == [run.id for run in wanted]
