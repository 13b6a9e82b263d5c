"""The log of every epoch: metrics, and images at the step on which the MLflow UI opens."""

from types import SimpleNamespace

import numpy as np
import pytest
from toy_dataset import split_of, squares

from embedlab.progress import EpochRecord
from embedlab.vision.evaluation.metrics import Predictions
from embedlab.workflows.images.training_log import TrainingLog

IMAGES = squares()
SPLIT = split_of(IMAGES)


def finished(epoch: int) -> EpochRecord:
    return EpochRecord(epoch, {"val/loss": 1.0, "val/accuracy": 0.5})


@pytest.mark.parametrize(
    ("before", "epochs", "shown"),
    [
        ([], [1, 2], [0, 1, 2]),  # step 0 shows the true classes
        ([], [0, 1], [0, 1]),  # the linear probe
        ([1, 2], [3], [0, 3]),  # resumed
    ],
)
def test_there_are_images_at_step_0_and_of_every_epoch(before, epochs, shown):
    logged: list[int] = []
    run = SimpleNamespace(
        log_epoch=lambda record: None,
        log_image=lambda pixels, name, step: logged.append(step),
        log_figure=lambda figure, name: None,
    )
    labels = IMAGES.labels[SPLIT.val]
    predictions = Predictions(np.eye(3)[labels], labels, SPLIT.val)
    history = [finished(epoch) for epoch in before]
    training = SimpleNamespace(
        images=IMAGES, split=SPLIT, history=history, best=SimpleNamespace(epoch=1)
    )
    with TrainingLog(run, "toy", training) as log:
        for epoch in epochs:
            history.append(finished(epoch))
            log.log_epoch(history[-1], predictions)
    assert logged == shown
