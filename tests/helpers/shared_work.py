"""The work that test_distributed does with one process and with several: fits, features, training.

`python -m shared_work <folder> <n> <port>` does it with n processes and saves their results in that
folder. They are forks of one that has imported everything, with torchrun's variables.
"""

import io
import os
import sys
from dataclasses import replace
from multiprocessing.context import ForkProcess as Fork
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from narrow_resnet import NARROW
from oracles import random_likes
from toy_dataset import PREPROCESSING, split_of, squares

from embedlab.distributed.collectives import assert_same_across_ranks, process_group
from embedlab.distributed.env import STARTED_BY_TORCHRUN, is_main_process, rank, world_size
from embedlab.errors import OptionError
from embedlab.movies.data.weighting import weight_likes
from embedlab.movies.options import FitOptions
from embedlab.movies.solvers.fit import fit_likes, join_fit
from embedlab.progress import EpochRecord
from embedlab.vision import inference
from embedlab.vision.backbone import attach_head, load_backbone, new_head
from embedlab.vision.features import extract_features
from embedlab.vision.inference import ImagePipeline
from embedlab.vision.training.recipes import FinetuneOptions
from embedlab.vision.training.trainer import Trainer

LIKES = random_likes(np.random.default_rng(0), n_users=70, n_movies=40)
FITS = {"adam": 0.05, "sgd": 2e-4, "lbfgs": 1.0}
EPOCHS = 60
IMAGES = squares()
BATCH = 7  # 60, 30 and 30 images are several batches, not equally many per rank
# Four ranks do not get equally many of the 22 images of a batch.
LAST_STAGE = FinetuneOptions(
    epochs=2,
    batch_size=22,
    resolution=(32,),
    augment="crop_flip",
    freeze="all-but-last-stage",
)
ONE_STEP = replace(LAST_STAGE, epochs=1, batch_size=60, freeze="none", ema=0.0, warmup=0.0)


def fit(optimizer: str) -> tuple[list[float], np.ndarray]:
    """The cost of every epoch, and the inner products of the vectors."""
    costs = []
    options = FitOptions(optimizer, FITS[optimizer], dim=4, epochs=EPOCHS)

    def listen(record: EpochRecord) -> None:
        costs.append(record.metrics["train/cost"])

    if is_main_process():
        fitted = fit_likes(weight_likes(LIKES), options, 0, "cpu", listen, world_size() > 1)
    else:
        fitted = join_fit(options, 0, "cpu", listen)
    v = fitted.embedding
    return costs, v @ v.T


def features() -> dict[str, np.ndarray] | None:
    backbone = load_backbone(NARROW, "none", seed=1)
    pipeline = ImagePipeline(backbone.network, PREPROCESSING, flip_view=True)
    extracted = extract_features(backbone.digest, pipeline, IMAGES, split_of(IMAGES))
    return None if extracted is None else dict(extracted.parts)


def trainer_of(options: FinetuneOptions) -> Trainer:
    backbone = load_backbone(NARROW, "none", seed=1)
    network = attach_head(backbone, new_head(backbone, 3, seed=1))
    pipeline = ImagePipeline(network, PREPROCESSING, flip_view=options.flip_view)
    return Trainer(pipeline, IMAGES, split_of(IMAGES), options, seed=0)


def tune(trainer: Trainer) -> tuple:
    """Every epoch's metrics, the weights, and the probabilities of the test images."""
    for _ in trainer.train():
        pass
    predictions = trainer.pipeline.predict(IMAGES, split_of(IMAGES).test)
    weights = {name: value.numpy() for name, value in trainer.network.state_dict().items()}
    metrics = [
        {k: v for k, v in record.metrics.items() if not k.startswith("time/")}
        for record in trainer.history
    ]
    return metrics, weights, predictions and predictions.probabilities


def one_step() -> dict[str, np.ndarray]:
    """The change of each weight by one step of plain SGD on all images and all layers."""
    before = load_backbone(NARROW, "none", seed=1).network.state_dict()
    before = {name: value.clone().numpy() for name, value in before.items()}
    options = replace(ONE_STEP, optimizer="sgd", momentum=0.0, weight_decay=0.0)
    _, after, _ = tune(trainer_of(options))
    return {name: after[name] - before[name] for name in before}


def all_results() -> dict[str, object]:
    with patch.object(inference, "BATCH_SIZE", BATCH):
        trainer = trainer_of(LAST_STAGE)
        next(trainer.train())
        state = _copied(trainer.state())
        return {
            "fits": {optimizer: fit(optimizer) for optimizer in FITS},
            "features": features(),
            "tuned": tune(trainer),
            "one step": one_step(),
            "state": state,
        }


def _copied(state: dict) -> dict:
    """A copy of the state, which stays the same while the training continues."""
    torch.save(state, buffer := io.BytesIO())
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def by_rank(number: int, folder: Path) -> None:
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number)}
    torch.set_num_threads(1)
    params = {"device": "cpu"}
    with process_group(params):
        results = all_results()
        try:
            assert_same_across_ranks("dataset", rank() == 1)
        except OptionError as error:
            results["refused"] = str(error)
        if is_main_process():
            torch.save(results, folder / "results.pt")
        else:
            assert results["features"] is None
            torch.save((results["fits"], results["tuned"]), folder / f"other-{rank()}.pt")


def main(folder: Path, n: int, port: str) -> int:
    """Do the work with n processes; returns 0 if all have succeeded."""
    os.environ |= {"WORLD_SIZE": str(n), STARTED_BY_TORCHRUN: "test"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    children = [Fork(target=by_rank, args=(rank, folder)) for rank in range(n)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    return max(abs(child.exitcode) for child in children)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
