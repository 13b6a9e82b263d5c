"""`TrainingLog`: what is logged of every epoch of a training."""

import numpy as np

from embedlab.progress import EpochRecord
from embedlab.tracking.tracked_run import TrackedRun
from embedlab.vision.evaluation import plots
from embedlab.vision.evaluation.metrics import Predictions
from embedlab.vision.training.linear_probe import LinearProbe
from embedlab.vision.training.trainer import Trainer

VAL_GRID = "val_predictions"
IMAGES_EACH_EPOCH = 25  # a square


class TrainingLog:
    """Log every epoch of a training, and its curves at the end.

    label     in the title of the curves: how the classifier is trained, in words.
    training  its `history` and its `best` epoch by validation are logged.

    The earlier epochs of a resumed run are logged again at its beginning; the curves are logged
    even if training was stopped.
    """

    def __init__(self, run: TrackedRun, label: str, training: Trainer | LinearProbe):
        self.run, self.label, self.training = run, label, training
        self.images = training.images
        self._has_images = False
        # Spread evenly over the classes, whatever the order of the rows.
        by_class = np.argsort(self.images.labels[training.split.val], kind="stable")
        positions = np.linspace(0, len(by_class) - 1, min(IMAGES_EACH_EPOCH, len(by_class)))
        self._shown = by_class[np.rint(positions).astype(int)]

    def __enter__(self) -> "TrainingLog":
        for record in self.training.history:
            self.run.log_epoch(record)
        return self

    def __exit__(self, *_: object) -> None:
        if self.training.history:
            curves = {"": (self.training.history, self.training.best.epoch)}
            figure = plots.plot_curves(curves, f"{self.images.name}: {self.label}")
            self.run.log_figure(figure, "figures/curves.png")

    def log_epoch(self, record: EpochRecord, predictions: Predictions | None) -> None:
        """Log the metrics of an epoch, and its predictions for the same validation images."""
        self.run.log_epoch(record)
        if predictions is None:
            return
        shown, classes = predictions.take(self._shown), self.images.classes
        pixels = self.images.pixels[shown.rows]
        if not self._has_images and record.epoch:  # the UI shows step 0 first
            names = [classes[label] for label in shown.labels]
            title = "validation images with their true classes"
            grid = plots.plot_image_grid(pixels, names, title)
            self.run.log_image(plots.as_pixels(grid), VAL_GRID, 0)
        self._has_images = True
        accuracy = predictions.score.accuracy
        title = f"validation images, epoch {record.epoch}: accuracy {accuracy:.1%}"
        grid = plots.plot_predictions(shown, pixels, classes, title)
        self.run.log_image(plots.as_pixels(grid), VAL_GRID, record.epoch)
