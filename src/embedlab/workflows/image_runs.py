"""Steps of both `extract_features` and `finetune`: data, epochs, test report, model."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch

from embedlab.datasets.folder import LeftOutFile
from embedlab.datasets.image_source import locate_images
from embedlab.distributed.collectives import assert_same_across_ranks, local_main_first
from embedlab.formatting import counted, serve_command
from embedlab.progress import OnProgress
from embedlab.tracking import charts
from embedlab.tracking.lifecycle import TrackedRun
from embedlab.tracking.registry.card import Card
from embedlab.tracking.registry.promotion import PromotionScore
from embedlab.tracking.registry.versions import publish
from embedlab.vision.data.augmentation import Augmentation
from embedlab.vision.data.images import ImageDataset, read_images
from embedlab.vision.data.splits import Split, duplicates_across_parts, split_images
from embedlab.vision.evaluation import plots
from embedlab.vision.evaluation.embedding_map import map_images, nearest, one_query_per_class
from embedlab.vision.evaluation.metrics import (
    ClassificationReport,
    Predictions,
    evaluate,
    top_predictions,
)
from embedlab.vision.inference import Classifier
from embedlab.vision.training.epochs import Epoch
from embedlab.vision.training.linear_probe import LinearProbe
from embedlab.vision.training.trainer import Trainer
from embedlab.workflows import model_facts
from embedlab.workflows.finished_image_runs import PREDICTIONS
from embedlab.workflows.models import log_image_model

VAL_GRID = "val_predictions"
LEFT_OUT_TABLE, DUPLICATES_TABLE = "tables/unreadable.json", "tables/duplicates.json"
NAMES_SHOWN = 3
IMAGES_EACH_EPOCH = 25  # a square
TRAINING_IMAGES, TRAINING_COLUMNS = 36, 12
NEIGHBOURS = 8
MAP_NAMES = {"pca": "PCA", "tsne": "t-SNE"}
VIEW = "pictures"
CARD_PARAMETERS = (
    "backbone", "weights", "recipe", "head", "batch_norm", "optimizer", "lr", "weight_decay",
    "schedule", "epochs", "batch_size", "resolution", "augment", "freeze", "flip_view",
    "precision", "seed",
)  # fmt: skip


def load_images(
    run: TrackedRun, params: Mapping[str, Any], on_progress: OnProgress
) -> tuple[ImageDataset, Split, list[str]]:
    """Find, read and split the data, and log its lineage, its counts and what was left out.

    params  values by name, of `options.SPLIT_PARAMETERS` at least.

    Returns the images, their split, and what to tell the user about them.
    """
    with local_main_first():
        source = locate_images(params["dataset"])
        images = read_images(source, on_progress)
    limits = (params[f"{part}_limit"] for part in ("train", "val", "test"))
    split = split_images(images, params["split_seed"], *limits)
    assert_same_across_ranks("dataset", (images.digest, split.digest))
    run.log_dataset(images.name, images.digest, source.source, "training")
    run.set_tags({"data_digest": split.digest, "pictures_digest": images.digest})
    duplicates = duplicates_across_parts(images, split)
    run.log_params(
        {
            "data_digest": split.digest,
            "data/classes": len(images.classes),
            **{f"data/{part}": len(rows) for part, rows in split.parts.items()},
            "data/unreadable": len(images.left_out),
            "data/duplicates_across_parts": len(duplicates),
        }
    )
    messages = [str(images), *images.notes]
    if images.left_out:
        messages.append(_log_left_out(run, images.left_out))
    if duplicates:
        messages.append(_log_duplicates(run, images, split, duplicates))
    return images, split, [*messages, *plots.prepare_fonts(images)]


def _log_left_out(run: TrackedRun, left_out: Sequence[LeftOutFile]) -> str:
    run.log_text("".join(f"{item}\n" for item in left_out), "unreadable.txt")
    run.log_table(pd.DataFrame(left_out, columns=["file", "reason"]), LEFT_OUT_TABLE)
    n = counted(len(left_out), "file or folder", "files and folders")
    shown = ", ".join(f"{item.name} ({item.reason})" for item in left_out[:NAMES_SHOWN])
    if len(left_out) <= NAMES_SHOWN:
        return f"{n} left out: {shown}."
    return f"{n} left out, such as {shown}; {LEFT_OUT_TABLE} of the run lists all."


def _log_duplicates(
    run: TrackedRun, images: ImageDataset, split: Split, duplicates: Sequence[tuple[int, int]]
) -> str:
    part_of = {row: part for part, rows in split.parts.items() for row in rows.tolist()}
    names = images.files or [f"image {row}" for row in range(len(images.labels))]
    table = pd.DataFrame(
        [(names[row], part_of[row], names[first], part_of[first]) for row, first in duplicates],
        columns=["file", "part", "same_as", "part_of_same"],
    )
    run.log_table(table, DUPLICATES_TABLE)
    copy, part, original, other_part = table.iloc[0]
    return (
        f"The validation and test parts have {counted(len(duplicates), 'copy', 'copies')} of "
        f"images in other parts, such as {copy} ({part}) of {original} ({other_part}), "
        f"which makes accuracies too high: remove them; {DUPLICATES_TABLE} of the run lists all."
    )


def log_training_images(
    run: TrackedRun, images: ImageDataset, split: Split, augment: str, resolution: int
) -> None:
    """Log a grid of augmented training images, as the network sees them."""
    rows = split.train[np.linspace(0, len(split.train) - 1, TRAINING_IMAGES).astype(int)]
    augmentation = Augmentation(augment, images.side, resolution)
    pixels = augmentation(torch.from_numpy(images.take(rows)), torch.Generator().manual_seed(0))
    names = [images.classes[label] for label in images.labels[rows]]
    title = f"training images, augment={augment}"
    figure = plots.plot_image_grid(pixels.numpy(), names, title, columns=TRAINING_COLUMNS)
    run.log_figure(figure, "figures/training_pictures.png")


class TrainingLog:
    """Log a training: every epoch, its curves at the end, then the test report and the model.

    label     of the curves: how the classifier is trained, in words.
    training  its `history` and its `best` epoch by validation are logged.

    The epochs of a resumed training are logged again at the beginning; the curves are logged even
    if the training was stopped.
    """

    def __init__(
        self,
        run: TrackedRun,
        images: ImageDataset,
        split: Split,
        label: str,
        training: Trainer | LinearProbe,
    ):
        self.run, self.images, self.split = run, images, split
        self.label, self.training = label, training
        self._has_images = False
        # Evenly over the classes, whose images lie anywhere among the rows.
        by_class = np.argsort(images.labels[split.val], kind="stable")
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

    def log_epoch(self, epoch: Epoch) -> None:
        """Log the metrics of an epoch, and its predictions for the same validation images."""
        record, predictions = epoch
        self.run.log_epoch(record)
        if predictions is None:
            return
        shown, classes = predictions.take(self._shown), self.images.classes
        pixels = self.images.pixels[shown.rows]
        if not self._has_images and record.epoch:  # the UI opens on step 0
            names = [classes[label] for label in shown.labels]
            title = "validation images with their true classes"
            grid = plots.plot_image_grid(pixels, names, title)
            self.run.log_image(plots.as_pixels(grid), VAL_GRID, 0)
        self._has_images = True
        accuracy = predictions.score.accuracy
        title = f"validation images, epoch {record.epoch}: accuracy {accuracy:.1%}"
        grid = plots.plot_predictions(shown, pixels, classes, title)
        self.run.log_image(plots.as_pixels(grid), VAL_GRID, record.epoch)

    def log_embedding(self, features: np.ndarray, test: Predictions, method: str) -> None:
        """Log a map of the n test images by their features (n, d), and neighbours of some."""
        images = self.images
        points, drawn = map_images(features, method, seed=0)
        title = f"{images.name}, test images in the embedding, by {MAP_NAMES[method]}"
        figure = plots.plot_embedding_map(points, test.take(drawn), images, title)
        self.run.log_figure(figure, "figures/embedding_map.png")
        queries = one_query_per_class(test.labels)
        neighbours = nearest(features, queries, NEIGHBOURS)
        title = f"{images.name}, test images: neighbours by cosine"
        figure = plots.plot_neighbours(test.rows[queries], test.rows[neighbours], images, title)
        self.run.log_figure(figure, "figures/neighbours.png")

    def finish(
        self, classifier: Classifier, test: Predictions, trained: str, params: Mapping[str, Any]
    ) -> list[str]:
        """Log the test report and the model, and register it if `params` say so.

        classifier  a classifier of torchvision with its head, at the best epoch.
        trained     how it was trained, in words.
        params      values by name: backbone, register, model_name, promote.

        Versions compete by validation accuracy on the same validation and test images.
        Returns what to tell the user.
        """
        run, images, best = self.run, self.images, self.training.best
        run.log_metrics(
            {
                "best/epoch": best.epoch,
                "best/val_accuracy": best.score.accuracy,
                "best/val_loss": best.score.loss,
                "time/fit_seconds": self.training.seconds,
            }
        )
        report = self._log_test(test)
        about = {
            "backbone": params["backbone"],
            "flip_view": classifier.flip_view,
            "trained": trained,
            "data": images.name,
            "data_digest": self.split.digest,
            "val_accuracy": best.score.accuracy,
            "test_accuracy": report.accuracy,
            "classes": list(images.classes),
            "side": images.side,
            "preprocessing": asdict(classifier.preprocessing),
        }
        example = images.pixels[self.split.val[0]]
        model = log_image_model(run, classifier.network, about, example)
        summary = f"{report} of {counted(len(test.labels), 'image')}; {best}"
        messages = publish(run, model, self._card(report), params, summary, "Serve")
        instructions = run.ui_instructions(comparison_view(run.experiment_id))
        return [summary, *messages, *filter(None, [instructions])]

    def _log_test(self, test: Predictions) -> ClassificationReport:
        """Evaluate the test images: metrics, tables, figures, and the predictions themselves."""
        run, images = self.run, self.images
        report = evaluate(test, images.classes)
        run.log_metrics(report.as_metrics())
        run.log_table(report.per_class, "tables/per_class.json")
        counts = pd.DataFrame(report.confusion, columns=[f"as {name}" for name in images.classes])
        counts.insert(0, "true class", images.classes)
        run.log_table(counts, "tables/confusion.json")
        low, high = report.interval
        title = f"{images.name}, test: accuracy {report.accuracy:.1%} ({low:.1%} to {high:.1%})"
        run.log_figure(plots.plot_confusion(report, title), "figures/confusion.png")

        top = top_predictions(test, images.classes)
        for page, figure in enumerate(plots.plot_top_predictions(top, images, title), start=1):
            suffix = "" if page == 1 else f"_{page}"
            run.log_figure(figure, f"figures/predictions{suffix}.png")
        thumbnails = [mlflow.Image(images.pixels[row].transpose(1, 2, 0)) for row in top["row"]]
        table = top.drop(columns="row").round({"confidence": 4})
        table.insert(3, "picture", thumbnails)
        run.log_table(table, "tables/predictions.json")
        folder_name, _, file_name = PREDICTIONS.partition("/")
        with run.artifact_folder(folder_name) as folder:
            np.savez(folder / file_name, **vars(test))
        return report

    def _card(self, report: ClassificationReport) -> Card:
        images, best = self.images, self.training.best
        params = self.run.resolved_params(CARD_PARAMETERS)
        licence = model_facts.YOUR_OWN if images.files else model_facts.data_licence(images.name)
        low, high = report.interval
        val_loss = PromotionScore(model_facts.VAL_LOSS, best.score.loss)
        val_accuracy = f"{best.score.accuracy:.2%}"
        n_train, n_val, n_test = (len(rows) for rows in self.split.parts.values())
        return Card(
            summary=f"Classifies an image into one of {len(images.classes)} classes, with a "
            "probability.",
            data=images.name,
            data_digest=self.split.digest,
            counts=f"{n_train:,} images to train, {n_val:,} to validate, {n_test:,} to test",
            licences={
                "Images": licence,
                "Weights it started from": model_facts.weights_licence(params["weights"]),
            },
            trained=params,
            origin=self.run.origin,
            run_id=self.run.id,
            score=PromotionScore(model_facts.VAL_ACCURACY, best.score.accuracy, val_loss),
            metrics={
                "test_accuracy": report.accuracy,
                "test_accuracy_low": low,
                "test_accuracy_high": high,
            },
            results={
                "test accuracy": f"{report.accuracy:.2%}",
                "its 95% interval (Wilson)": f"{low:.2%} to {high:.2%}",
                f"validation accuracy, which chose epoch {best.epoch}": val_accuracy,
                "calibration error on the test images": f"{report.calibration_error:.2%}",
            },
            limits=model_facts.IMAGE_LIMITS,
            command=serve_command,
        )


def comparison_view(experiment_id: str) -> str | None:
    """The page of the charts that compare all image runs of the experiment; None if not saved."""
    return charts.save_view(
        experiment_id,
        VIEW,
        "Image runs",
        charts=[
            charts.line_chart("Validation accuracy", ["val/accuracy"]),
            charts.line_chart("Loss", ["train/loss", "val/loss"], log_scale=True),
            charts.bar_chart("Test accuracy", "test/accuracy"),
            charts.parallel_chart(
                "Optimizer, rate, accuracy",
                ["resolved/optimizer", "resolved/lr"],
                ["best/val_accuracy", "test/accuracy"],
            ),
            charts.image_chart("Validation predictions by epoch", VAL_GRID),
        ],
        columns=[
            *(f"params.resolved/{name}" for name in ("optimizer", "lr", "epochs")),
            "metrics.best/val_accuracy",
            "metrics.test/accuracy",
            "metrics.time/fit_seconds",
        ],
        order_by="best/val_accuracy DESC",
        # Set by load_images; MLflow's tag filters have no IN.
        search="tags.pictures_digest IS NOT NULL",
    )
