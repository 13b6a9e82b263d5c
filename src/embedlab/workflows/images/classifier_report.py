"""The report of a trained classifier: test metrics, tables and figures, model, card, charts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import mlflow
import numpy as np
import pandas as pd

from embedlab.formatting import counted
from embedlab.tracking import charts
from embedlab.tracking.project import serve_command
from embedlab.tracking.registry.card import Card
from embedlab.tracking.registry.promotion import PromotionScore
from embedlab.tracking.registry.versions import publish
from embedlab.tracking.tracked_run import TrackedRun
from embedlab.vision.data.images import ImageDataset
from embedlab.vision.evaluation import plots
from embedlab.vision.evaluation.embedding_map import map_images, nearest, one_query_per_class
from embedlab.vision.evaluation.metrics import (
    ClassificationReport,
    Predictions,
    evaluate,
    top_predictions,
)
from embedlab.vision.inference import ImagePipeline
from embedlab.vision.training.linear_probe import LinearProbe
from embedlab.vision.training.trainer import Trainer
from embedlab.workflows import model_facts
from embedlab.workflows.images.finished_runs import PREDICTIONS
from embedlab.workflows.images.model import log_image_model
from embedlab.workflows.images.training_log import VAL_GRID

NEIGHBOURS = 8
MAP_NAMES = {"pca": "PCA", "tsne": "t-SNE"}
VIEW = "pictures"
CARD_PARAMETERS = (
    "backbone", "weights", "recipe", "head", "batch_norm", "optimizer", "lr", "weight_decay",
    "schedule", "epochs", "batch_size", "resolution", "augment", "freeze", "flip_view",
    "precision", "seed",
)  # fmt: skip


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier whose training has ended.

    pipeline  of the network with its head, at the best epoch.
    label     how it was trained, in words; the entry `trained` of the model's metadata.
    """

    training: Trainer | LinearProbe
    pipeline: ImagePipeline
    label: str


def log_embedding(
    run: TrackedRun, images: ImageDataset, features: np.ndarray, test: Predictions, method: str
) -> None:
    """Log a map of the n test images by their features (n, d), and neighbours of some."""
    points, drawn = map_images(features, method, seed=0)
    title = f"{images.name}, test images in the embedding, by {MAP_NAMES[method]}"
    figure = plots.plot_embedding_map(points, test.take(drawn), images, title)
    run.log_figure(figure, "figures/embedding_map.png")
    queries = one_query_per_class(test.labels)
    neighbours = nearest(features, queries, NEIGHBOURS)
    title = f"{images.name}, test images: neighbours by cosine"
    figure = plots.plot_neighbours(test.rows[queries], test.rows[neighbours], images, title)
    run.log_figure(figure, "figures/neighbours.png")


def log_and_publish(
    run: TrackedRun, trained: TrainedClassifier, test: Predictions, params: Mapping[str, Any]
) -> list[str]:
    """Log the test report and the model, and register it if `params` say so.

    params  by name: backbone, register, model_name, promote.

    Versions compete by validation accuracy on the same validation and test images.
    Returns what to tell the user.
    """
    training, pipeline = trained.training, trained.pipeline
    images, best = training.images, training.best
    run.log_metrics(
        {
            "best/epoch": best.epoch,
            "best/val_accuracy": best.score.accuracy,
            "best/val_loss": best.score.loss,
            "time/fit_seconds": training.seconds,
        }
    )
    report = log_test(run, images, test)
    about = {
        "backbone": params["backbone"],
        "flip_view": pipeline.flip_view,
        "trained": trained.label,
        "data": images.name,
        "data_digest": training.split.digest,
        "val_accuracy": best.score.accuracy,
        "test_accuracy": report.accuracy,
        "classes": list(images.classes),
        "side": images.side,
        "preprocessing": asdict(pipeline.preprocessing),
    }
    example = images.pixels[training.split.val[0]]
    model_uri = log_image_model(run, pipeline.network, about, example)
    summary = f"{report} of {counted(len(test.labels), 'image')}; {best}"
    card = image_card(run, trained, report)
    messages = publish(run, model_uri, card, params, summary, "Serve")
    instructions = run.ui_instructions(save_comparison_view(run.experiment_id))
    return [summary, *messages, *filter(None, [instructions])]


def log_test(run: TrackedRun, images: ImageDataset, test: Predictions) -> ClassificationReport:
    """Evaluate the test images, and log metrics, tables, figures and the predictions."""
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


def image_card(run: TrackedRun, trained: TrainedClassifier, report: ClassificationReport) -> Card:
    """The model card of a classifier and its test report."""
    training = trained.training
    images, split, best = training.images, training.split, training.best
    params = run.resolved_params(CARD_PARAMETERS)
    licence = model_facts.YOUR_OWN if images.files else model_facts.data_licence(images.name)
    low, high = report.interval
    val_loss = PromotionScore(model_facts.VAL_LOSS, best.score.loss)
    val_accuracy = f"{best.score.accuracy:.2%}"
    n_train, n_val, n_test = (len(rows) for rows in split.parts.values())
    return Card(
        summary=f"Classifies an image into one of {len(images.classes)} classes, with a "
        "probability.",
        data=images.name,
        data_digest=split.digest,
        counts=f"{n_train:,} images to train, {n_val:,} to validate, {n_test:,} to test",
        licences={
            "Images": licence,
            "Weights it started from": model_facts.weights_licence(params["weights"]),
        },
        trained=params,
        origin=run.origin,
        run_id=run.id,
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


def save_comparison_view(experiment_id: str) -> str | None:
    """Save charts that compare the experiment's image runs; return their page, None if failed."""
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
        filter_string="tags.pictures_digest IS NOT NULL",
    )
