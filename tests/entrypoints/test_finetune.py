"""`finetune`: a stopped run and the one that resumes it agree on mirrored images."""

import pytest
from conftest import fresh_store

from embedlab.vision.training import linear_probe, trainer
from embedlab.workflows.images.training_log import TrainingLog
from entrypoints.finetune import main

SMALL = "--dataset sample --weights none --head linear_probe --resolution 32 --train-limit 60 "
SMALL += "--val-limit 20 --test-limit 20 --epochs 2 --batch-size 16"


@pytest.mark.slow
@pytest.mark.parametrize("given", [(), ("--flip-view", "true")])
def test_a_resumed_training_mirrors_as_the_stopped_one(tmp_path, monkeypatch, given):
    asked, pipelines = [], []

    def sensitive(*arguments):
        asked.append(arguments[-2])
        return probe_head(*arguments)._replace(is_mirror_sensitive=True)

    class Spied(trainer.Trainer):
        def __init__(self, pipeline, *arguments):
            super().__init__(pipeline, *arguments)
            pipelines.append(pipeline)

    def stop(log, record, predictions):
        if record.epoch:
            raise KeyboardInterrupt

    probe_head = linear_probe.probe_head
    monkeypatch.setattr(linear_probe, "probe_head", sensitive)
    monkeypatch.setattr(trainer, "Trainer", Spied)
    with fresh_store(tmp_path) as client:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(TrainingLog, "log_epoch", stop)
            main([*SMALL.split(), *given])
        (stopped,) = client.search_runs(["1"])
        main(["--resume", stopped.info.run_id])
        resumed, _ = client.search_runs(["1"])
    assert asked == [True]
    for run, pipeline in zip((stopped, resumed), pipelines, strict=True):
        assert run.data.params["resolved/augment"] == "crop"
        assert run.data.params["resolved/flip_view"] == str(bool(given)).lower()
        assert pipeline.flip_view == bool(given)
