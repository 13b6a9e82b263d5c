"""Benchmark of the image part: speed against the bare network, and against the notebook's code.

python -m benchmarks.vision [--resolution 96] [--images 1000] [--rounds 5]

Images and weights are random, which does not change how long a network takes. The sides of a
comparison take turns, so that a slow spell of the machine affects all of them.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import models, transforms

from benchmarks.timing import Report, seconds_of_calls, take_turns
from embedlab.device import choose_precision
from embedlab.vision.backbone import load_backbone
from embedlab.vision.data.images import ImageDataset
from embedlab.vision.data.splits import Split
from embedlab.vision.features import Features
from embedlab.vision.inference import BATCH_SIZE, ImagePipeline
from embedlab.vision.options import LinearProbeOptions
from embedlab.vision.training.linear_probe import LinearProbe
from embedlab.vision.training.recipes import FinetuneOptions
from embedlab.vision.training.trainer import Trainer

N_CLASSES, SIDE, EPOCHS = 10, 32, 15


class Notebook(Dataset):
    """One image at a time, through PIL, as in the notebook."""

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        resolution: int,
        mean: Sequence[float],
        std: Sequence[float],
    ):
        self.images, self.labels = images.transpose(0, 2, 3, 1), labels
        self.transform = transforms.Compose(
            [
                transforms.Resize(resolution),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(mean, std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[row])), int(self.labels[row])


class Sides:
    """The same work as done by the bare network, by this project, and in the notebook."""

    def __init__(self, n_images: int, resolution: int):
        self.n_images, self.resolution = n_images, resolution
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (n_images, 3, SIDE, SIDE), dtype=np.uint8)
        labels = np.arange(n_images) % N_CLASSES
        classes = tuple(map(str, range(N_CLASSES)))
        self.rows = np.arange(n_images)
        self.images = ImageDataset("random", classes, pixels, labels, {}, "random", self.rows)
        self.n_val = BATCH_SIZE // 10
        val = self.rows[: self.n_val]
        self.split = Split(self.rows, val, val, "random")
        backbone = load_backbone("resnet18", "none")
        self.preprocessing = backbone.preprocessing(resolution, 1.0)
        self.precision = choose_precision("auto", "cpu")
        self.options = FinetuneOptions(epochs=1, resolution=(resolution,), flip_view=False)
        network = backbone.network.to(memory_format=torch.channels_last).eval()
        self.ours = ImagePipeline(network, self.preprocessing, "cpu", self.precision)
        self.ours32 = ImagePipeline(network, self.preprocessing, "cpu", "float32")
        self.plain = models.resnet18().eval()
        self.trained = new_resnet().to(memory_format=torch.channels_last)
        dataset = Notebook(pixels, labels, resolution, backbone.mean, backbone.std)
        self.loader = DataLoader(dataset, 64, num_workers=2)

    def batch_of(self, size: int) -> torch.Tensor:
        batch = torch.randn(size, 3, self.resolution, self.resolution)
        return batch.contiguous(memory_format=torch.channels_last)

    def forward_bare(self, pipeline: ImagePipeline) -> list[float]:
        batch = self.batch_of(BATCH_SIZE)

        def forward() -> None:
            with torch.inference_mode(), pipeline.autocast():
                for _ in range(self.n_images // BATCH_SIZE):
                    pipeline.network(batch)

        return seconds_of_calls(forward)

    def forward_ours(self, pipeline: ImagePipeline) -> list[float]:
        return seconds_of_calls(lambda: pipeline.compute_outputs(self.images, self.rows))

    def forward_notebook(self) -> list[float]:
        def forward() -> None:
            with torch.no_grad():
                for batch, _ in self.loader:
                    self.plain(batch)

        return seconds_of_calls(forward)

    def training_bare(self) -> list[float]:
        size = self.options.batch_size
        batch, truth = self.batch_of(size), torch.arange(size) % N_CLASSES

        def train() -> None:
            for _ in range(self.n_images // size):
                with self.ours.autocast():
                    logits = self.trained(batch)
                F.cross_entropy(logits.float(), truth).backward()
                self.trained.zero_grad()

        return seconds_of_calls(train)

    def training_ours(self) -> list[float]:
        """Seconds until the last training step; the validation after it is not counted."""
        steps: list[float] = []

        def on_progress(done: float, total: float | None, detail: str = "", /) -> None:
            if detail != "validation":
                steps.append(time.perf_counter())

        pipeline = ImagePipeline(new_resnet(), self.preprocessing, "cpu", self.precision)
        trainer = Trainer(pipeline, self.images, self.split, self.options, seed=0)
        started = time.perf_counter()
        list(trainer.train(on_progress))
        return [steps[-1] - started]

    def training_notebook(self) -> list[float]:
        network = new_resnet()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.001, momentum=0.9)

        def train() -> None:
            for batch, truth in self.loader:
                optimizer.zero_grad()
                F.cross_entropy(network(batch), truth).backward()
                optimizer.step()

        return seconds_of_calls(train)

    def head_ours(self) -> list[float]:
        def fit() -> None:
            features = self.ours.compute_outputs(self.images, self.rows)
            assert features is not None  # None only at ranks above 0, and there is one process
            parts = {"train": features, "val": features[: self.n_val]}
            found = Features(parts, key="", was_cached=False, seconds=0.0)
            options = LinearProbeOptions(epochs=EPOCHS)
            list(LinearProbe(found, self.images, self.split, options, 0, "cpu").train())

        return seconds_of_calls(fit)


def new_resnet() -> models.ResNet:
    return models.resnet18(num_classes=N_CLASSES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resolution", type=int, default=96)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    sides = Sides(args.images, args.resolution)
    measures: dict[str, Callable[[], list[float]]] = {
        "forward, bare": partial(sides.forward_bare, sides.ours),
        "forward, ours": partial(sides.forward_ours, sides.ours),
        "forward, bare, float32": partial(sides.forward_bare, sides.ours32),
        "forward, ours, float32": partial(sides.forward_ours, sides.ours32),
        "forward, notebook": sides.forward_notebook,
        "training, bare": sides.training_bare,
        "training, ours": sides.training_ours,
        "training, notebook": sides.training_notebook,
        "head, ours": sides.head_ours,
    }
    take_turns(measures, 1)  # warms up
    seconds = take_turns(measures, args.rounds)

    # These measurements leave out the last incomplete batch.
    batch_sizes = dict.fromkeys(("forward, bare", "forward, bare, float32"), BATCH_SIZE)
    batch_sizes |= dict.fromkeys(("training, bare", "training, ours"), sides.options.batch_size)

    def rates(name: str) -> list[float]:
        """Images per second in each round."""
        batch_size = batch_sizes.get(name, 1)
        n_images = args.images // batch_size * batch_size
        return [n_images / s for s in seconds[name]]

    threads = f"{torch.get_num_threads()} threads"
    report = Report(f"ResNet-18 at {args.resolution} px, {sides.precision}, {threads}")
    for label, name, base in (
        ("forward, bare network", "forward, bare", ""),
        ("forward, ours (ratio to bare)", "forward, ours", "forward, bare"),
        (
            "forward, ours in float32 (ratio to bare in float32)",
            "forward, ours, float32",
            "forward, bare, float32",
        ),
        ("forward, notebook: PIL in a DataLoader", "forward, notebook", ""),
        ("forward, ours (ratio to notebook)", "forward, ours", "forward, notebook"),
        ("training, bare forward + backward", "training, bare", ""),
        ("training, ours (ratio to bare)", "training, ours", "training, bare"),
        ("training, notebook", "training, notebook", ""),
        ("training, ours (ratio to notebook)", "training, ours", "training, notebook"),
    ):
        ratio = median_ratio(rates(name), rates(base)) if base else None
        report.add(label, rates(name), "images/s", ratio)
    # The notebook sends every image through the whole network in each of 15 epochs.
    notebook, ours = [EPOCHS * s for s in seconds["forward, notebook"]], seconds["head, ours"]
    report.add(f"{EPOCHS} epochs of the head, notebook (one epoch × {EPOCHS})", notebook, "s")
    label = f"{EPOCHS} epochs of the head, ours (notebook's time to ours)"
    report.add(label, ours, "s", median_ratio(notebook, ours))
    report.show()


def median_ratio(of: Sequence[float], to: Sequence[float]) -> float:
    """The median, over the rounds, of the ratios of `of` to `to`."""
    return statistics.median(a / b for a, b in zip(of, to, strict=True))


if __name__ == "__main__":
    main()
