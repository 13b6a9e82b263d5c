"""What `extract_features` and `finetune` log alike: data, epochs, test report, model, charts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import mlflow
import numpy as np
import pandas as pd
import torch

from embedlab.datasets.folder import LeftOut
from embedlab.datasets.images import locate_images
from embedlab.distributed.collectives import assert_same_across_ranks, local_main_first
from embedlab.plotting import add_fonts_for
from embedlab.progress import OnCount, Step
from embedlab.tracking.charts import (
    bar_chart,
    image_chart,
    line_chart,
    parallel_chart,
    save_view,
)
from embedlab.tracking.registry.card import Card
from embedlab.tracking.registry.promotion import Score
from embedlab.tracking.registry.versions import publish
from embedlab.tracking.run import TrackedRun
from embedlab.tracking.store import how_to_open
from embedlab.vision.data.augmentation import Augmentation
from embedlab.vision.data.images import ImageDataset, read_images
from embedlab.vision.data.splits import Split, duplicates_across_parts, split_images
from embedlab.vision.evaluation import plots as figures
from embedlab.vision.evaluation.metrics import (
    Predictions,
    Report,
    ValidationScore,
    evaluate,
    top_predictions,
)
from embedlab.vision.evaluation.projection import nearest, one_query_a_class, project
from embedlab.vision.features import PARTS
from embedlab.vision.options import DATA
from embedlab.wording import counted
from embedlab.workflows.model_facts import (
    IMAGE_LIMITS,
    VAL_ACCURACY,
    data_licence,
    weights_licence,
)
from embedlab.workflows.models import log_image_model
from embedlab_serving.preprocess import Preprocessing

if TYPE_CHECKING:
    from torch import nn

PREDICTIONS = "predictions/test.npz"
VAL_GRID = "val_predictions"
LEFT_OUT_TABLE, DUPLICATES_TABLE = "tables/unreadable.json", "tables/duplicates.json"
NAMES_SHOWN = 3
SHOWN_EACH_EPOCH = 24
TRAINING_IMAGES = 36
NEIGHBOURS = 8
MAP_NAMES = {"pca": "PCA", "tsne": "t-SNE"}
VIEW = "pictures"
ENTRY_POINTS = ("extract_features", "finetune")
PARAMS = (
    *("backbone", "weights", "recipe", "optimizer", "lr", "weight_decay", "schedule", "epochs"),
    *("batch_size", "resolution", "augment", "freeze", "flip_view", "precision", "seed"),
)


def load_images(
    run: TrackedRun, settings: Mapping[str, object], on_count: OnCount
) -> tuple[ImageDataset, Split, list[str]]:
    """Find, read and split the data, and log its lineage, its counts and what was left out.

    settings  the parameters `options.DATA`, by name.

    Returns the images, their split, and what to tell the user about them.
    """
    dataset, *how_split = (settings[name] for name in DATA)
    with local_main_first():
        source = locate_images(dataset)
        images = read_images(source, on_count)
    split = split_images(images, *how_split)
    assert_same_across_ranks("dataset", (images.digest, split.digest))
    run.log_dataset(images.name, images.digest, source.source, "training")
    run.log_params({"data_digest": split.digest})
    run.set_tags({"data_digest": split.digest, "pictures_digest": images.digest})
    duplicates = duplicates_across_parts(images, split)
    run.log_metrics(
        {
            "data/classes": len(images.classes),
            "data/train": len(split.train),
            "data/val": len(split.val),
            "data/test": len(split.test),
            "data/unreadable": len(images.left_out),
            "data/duplicates_across_parts": len(duplicates),
        }
    )
    said = [str(images), *images.notes]
    if images.left_out:
        said.append(_log_left_out(run, images.left_out))
    if duplicates:
        said.append(_log_duplicates(run, images, split, duplicates))
    return images, split, [*said, *prepare_fonts(images)]


def _log_left_out(run: TrackedRun, left_out: Sequence[LeftOut]) -> str:
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
    part = {row: name for name in PARTS for row in getattr(split, name).tolist()}
    names = images.files or [f"image {row}" for row in range(len(images.labels))]
    table = pd.DataFrame(
        [(names[row], part[row], names[other], part[other]) for row, other in duplicates],
        columns=["file", "part", "same_as", "part_of_same"],
    )
    run.log_table(table, DUPLICATES_TABLE)
    copy, part_of_copy, original, its_part = table.iloc[0]
    return (
        f"The validation and test parts have {counted(len(duplicates), 'copy', 'copies')} of "
        f"images in other parts, such as {copy} ({part_of_copy}) of {original} ({its_part}), "
        f"which makes accuracies too high: remove them; {DUPLICATES_TABLE} of the run lists all."
    )


def prepare_fonts(images: ImageDataset) -> list[str]:
    """Let figures show the names of the classes; what to tell the user where they cannot."""
    boxes = add_fonts_for([images.name, *images.classes])
    if not boxes:
        return []
    more = f" and {len(boxes) - NAMES_SHOWN:,} more" if len(boxes) > NAMES_SHOWN else ""
    return [
        f"No installed font has every character of {', '.join(boxes[:NAMES_SHOWN])}{more}: figures "
        "show boxes instead. Install one that has, such as Noto (for Chinese, Japanese and Korean "
        "on Debian: fonts-noto-cjk)."
    ]


class EpochLog:
    """Every epoch of a training: metrics, the same few validation images, curves at the end."""

    def __init__(self, run: TrackedRun, images: ImageDataset, split: Split, label: str):
        self.run, self.images, self.label = run, images, label
        self.steps: list[Step] = []
        # Evenly over the classes, whose images lie anywhere among the rows.
        by_class = np.argsort(images.labels[split.val], kind="stable")
        places = np.linspace(0, len(by_class) - 1, min(SHOWN_EACH_EPOCH, len(by_class)))
        self._shown = by_class[np.rint(places).astype(int)]

    def __enter__(self) -> "EpochLog":
        return self

    def __exit__(self, *_: object) -> None:
        """The curves of a training that was stopped, too."""
        if self.steps:
            title = f"{self.images.name}: {self.label}"
            self.run.log_figure(figures.plot_curves({"": self.steps}, title), "figures/curves.png")

    def on_step(self, step: Step) -> None:
        self.steps.append(step)
        self.run.record(step)

    def on_predictions(self, epoch: int, predictions: Predictions) -> None:
        """`predictions` of all validation images, in the order of the split."""
        title = f"validation images, epoch {epoch}: accuracy {predictions.is_right.mean():.1%}"
        grid = figures.plot_validation_grid(predictions.take(self._shown), self.images, title)
        self.run.log_image(figures.as_pixels(grid), VAL_GRID, epoch)


def log_training_images(
    run: TrackedRun, images: ImageDataset, split: Split, augment: str, resolution: int
) -> None:
    """A grid of training images as the network sees them: changed at random."""
    rows = split.train[np.linspace(0, len(split.train) - 1, TRAINING_IMAGES).astype(int)]
    with torch.random.fork_rng(devices=[]):  # what is drawn here is not missing in the training
        torch.manual_seed(0)
        changed = Augmentation(augment, images.side, resolution)(
            torch.from_numpy(images.pixels[rows])
        )
    names = [images.classes[label] for label in images.labels[rows]]
    figure = figures.plot_image_grid(changed.numpy(), names, f"training images, augment={augment}")
    run.log_figure(figure, "figures/training_pictures.png")


def log_embedding(
    run: TrackedRun, features: np.ndarray, images: ImageDataset, rows: np.ndarray, how: str
) -> None:
    """The map of an embedding (n, d) of those rows, and what lies next to what."""
    points, shown = project(features, how, seed=0)
    labels = images.labels[rows]
    title = f"{images.name}, test images in the embedding, by {MAP_NAMES[how]}"
    figure = figures.plot_embedding_map(points, labels[shown], images.classes, title)
    run.log_figure(figure, "figures/embedding_map.png")
    queries = one_query_a_class(labels)
    found = nearest(features, queries, NEIGHBOURS)
    title = f"{images.name}, test images: neighbours by cosine"
    figure = figures.plot_neighbours(rows[queries], rows[found], images, title)
    run.log_figure(figure, "figures/neighbours.png")


def log_test(run: TrackedRun, predictions: Predictions, images: ImageDataset, epoch: int) -> Report:
    """Score the test images: metrics, tables, figures, and the predictions themselves."""
    report = evaluate(predictions, images.classes)
    run.log_metrics(report.as_metrics(), epoch)
    run.log_table(report.per_class, "tables/per_class.json")
    counts = pd.DataFrame(report.confusion, columns=[f"as {name}" for name in images.classes])
    counts.insert(0, "true class", images.classes)
    run.log_table(counts, "tables/confusion.json")
    low, high = report.interval
    title = f"{images.name}, test: accuracy {report.accuracy:.1%} ({low:.1%} to {high:.1%})"
    run.log_figure(figures.plot_confusion(report, title), "figures/confusion.png")

    top = top_predictions(predictions, images.classes)
    for number, figure in enumerate(figures.plot_top_predictions(top, images, title), start=1):
        suffix = "" if number == 1 else f"_{number}"
        run.log_figure(figure, f"figures/predictions{suffix}.png")
    shown = [mlflow.Image(images.pixels[row].transpose(1, 2, 0)) for row in top["row"]]
    table = top.drop(columns="row").round({"confidence": 4})
    table.insert(3, "picture", shown)
    run.log_table(table, "tables/predictions.json")

    with run.artifact_folder("predictions") as folder, open(folder / "test.npz", "wb") as file:
        np.savez(
            file,
            probabilities=predictions.probabilities,
            labels=predictions.labels,
            rows=predictions.rows,
        )
    return report


@dataclass(frozen=True)
class Trained:
    """A classifier, the epoch it is of, and what its model file says of it.

    network   a torchvision ResNet with its head.
    epoch     the best by validation, whose score on the validation images is `score`.
    seconds   of computing it, features or earlier parts of a resumed training included.
    backbone, flip_view and trained (how, in words) go into the model's files.
    """

    network: "nn.Module"
    preprocessing: Preprocessing
    epoch: int
    score: ValidationScore
    seconds: float
    backbone: str
    flip_view: bool
    trained: str

    def __str__(self) -> str:
        return f"validation accuracy {self.score.accuracy:.2%} after epoch {self.epoch}"


def finish(
    run: TrackedRun,
    trained: Trained,
    test: Predictions,
    images: ImageDataset,
    split: Split,
    model_name: str | None,
    promote: str,
) -> list[str]:
    """The closing report and the model, registered where it has a name; what to tell the user.

    A new version is champion by its validation accuracy on the same validation and test images.
    """
    run.log_metrics(
        {
            "best/epoch": trained.epoch,
            "best/val_accuracy": trained.score.accuracy,
            "best/val_loss": trained.score.loss,
            "time/fit_seconds": trained.seconds,
        },
        trained.epoch,
    )
    report = log_test(run, test, images, trained.epoch)
    about = {
        "backbone": trained.backbone,
        "flip_view": trained.flip_view,
        "trained": trained.trained,
        "data": images.name,
        "data_digest": split.digest,
        "val_accuracy": trained.score.accuracy,
        "test_accuracy": report.accuracy,
        "classes": list(images.classes),
        "side": images.side,
        "preprocessing": asdict(trained.preprocessing),
    }
    model = log_image_model(run, trained.network, about, images.pixels[split.val[0]])
    card = _card(run, trained, report, images, split)
    score = Score(VAL_ACCURACY, *trained.score)
    model, registered = publish(run, model, card, score, model_name, promote)
    return [
        f"{trained}; {report}",
        *registered,
        f"Serve it with  mlflow models serve -m {model} --env-manager local -p 5901",
        "See the run, and all image runs side by side:",
        how_to_open(run.experiment_id, run.id, *comparison_view(run.experiment_id)),
    ]


def _card(
    run: TrackedRun, trained: Trained, report: Report, images: ImageDataset, split: Split
) -> Card:
    """What the registry says of a classifier."""
    params = run.params(PARAMS)
    low, high = report.interval
    val_accuracy = f"{trained.score.accuracy:.2%}"
    n_train, n_val, n_test = len(split.train), len(split.val), len(split.test)
    return Card(
        what=f"Says which of {len(images.classes)} classes an image shows, with a probability.",
        data=images.name,
        data_digest=split.digest,
        counts=f"{n_train:,} images to train, {n_val:,} to validate, {n_test:,} to test",
        licences={
            "Images": data_licence(images.name),
            "Weights it started from": weights_licence(params["weights"]),
        },
        trained=params,
        origin=run.origin,
        run_id=run.id,
        metrics={
            "test_accuracy": report.accuracy,
            "test_accuracy_low": low,
            "test_accuracy_high": high,
        },
        results={
            "test accuracy": f"{report.accuracy:.2%}",
            "its 95 % interval (Wilson)": f"{low:.2%} to {high:.2%}",
            f"validation accuracy, which chose epoch {trained.epoch}": val_accuracy,
            "calibration error on the test images": f"{report.calibration_error:.2%}",
        },
        limits=IMAGE_LIMITS,
        command="mlflow models serve -m {model} --env-manager local -h 127.0.0.1 -p 5902",
    )


def comparison_view(experiment_id: str) -> list[str]:
    """The page of charts that compare all image runs of the experiment, if it could be saved."""
    page = save_view(
        experiment_id,
        VIEW,
        "Image runs",
        charts=[
            line_chart("Validation accuracy", ["val/accuracy"]),
            line_chart("Loss", ["train/loss", "val/loss"], log_scale=True),
            bar_chart("Test accuracy", "test/accuracy"),
            parallel_chart(
                "Optimizer, rate, accuracy",
                ["resolved/optimizer", "resolved/lr"],
                ["best/val_accuracy", "test/accuracy"],
            ),
            image_chart("Validation predictions by epoch", VAL_GRID),
        ],
        columns=[
            "params.resolved/optimizer",
            "params.resolved/lr",
            "params.resolved/epochs",
            "metrics.best/val_accuracy",
            "metrics.test/accuracy",
            "metrics.time/fit_seconds",
        ],
        order_by="best/val_accuracy DESC",
        search="tags.pictures_digest IS NOT NULL",  # of load_images; tags know no IN
    )
    return [page] if page else []
