"""The image half: speed against the bare network, and against the notebook's way of doing it.

python -m benchmarks.vision [--resolution 96] [--images 1000] [--rounds 5]

Images and weights are random, which does not change how long a network takes. The sides of a
comparison take turns, so that a slow spell of the machine affects all of them.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import models, transforms

from benchmarks.timing import Report
from embedlab.vision.backbone import load_backbone
from embedlab.vision.data.images import ImageDataset
from embedlab.vision.data.splits import Split
from embedlab.vision.inference import BATCH_SIZE, Classifier, choose_precision
from embedlab.vision.options import LinearProbeOptions
from embedlab.vision.training.linear_probe import LinearProbe
from embedlab.vision.training.recipes import make_options
from embedlab.vision.training.trainer import Trainer
from embedlab_serving.network import Preprocessing

N_CLASSES, SIDE, EPOCHS = 10, 32, 15


class Notebook(Dataset):
    """One image at a time, through PIL, as the notebook had it."""

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


def seconds_of(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resolution", type=int, default=96)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    args, _ = parser.parse_known_args()
    n, resolution = args.images, args.resolution
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (n, 3, SIDE, SIDE), dtype=np.uint8)
    labels = np.arange(n) % N_CLASSES
    classes = tuple(map(str, range(N_CLASSES)))
    images = ImageDataset("random", classes, pixels, labels, {}, "random")
    rows = np.arange(n)
    n_val = BATCH_SIZE // 10
    split = Split(rows, rows[:n_val], rows[:n_val], "random")
    backbone = load_backbone("resnet18", "none")
    preprocessing = Preprocessing(resolution, 1.0, backbone.mean, backbone.std)
    device = "cpu"
    precision = choose_precision("auto", device)
    options = make_options("fast", epochs=1, resolution=(resolution,), flip_view=False)
    network = backbone.network.to(memory_format=torch.channels_last).eval()
    ours = Classifier(network, preprocessing, device, precision)
    ours32 = Classifier(network, preprocessing, device, "float32")

    def batch_of(size: int) -> torch.Tensor:
        return torch.randn(size, 3, resolution, resolution).contiguous(
            memory_format=torch.channels_last
        )

    def bare_forward(classifier: Classifier) -> Callable[[], None]:
        batch = batch_of(BATCH_SIZE)

        def run() -> None:
            with torch.inference_mode(), classifier.autocast():
                for _ in range(n // BATCH_SIZE):
                    network(batch)

        return run

    def bare_training() -> Callable[[], None]:
        net = models.resnet18(num_classes=N_CLASSES).to(memory_format=torch.channels_last)
        size = options.batch_size
        batch, truth = batch_of(size), torch.arange(size) % N_CLASSES

        def run() -> None:
            for _ in range(n // size):
                with ours.autocast():
                    scores = net(batch)
                F.cross_entropy(scores.float(), truth).backward()
                net.zero_grad()

        return run

    def our_training() -> float:
        """Seconds until the last training step; the validation after it is not counted."""
        net = models.resnet18(num_classes=N_CLASSES)
        steps: list[float] = []

        def on_progress(done: float, total: float | None, detail: str = "", /) -> None:
            if detail != "validation":
                steps.append(time.perf_counter())

        trainer = Trainer(
            Classifier(net, preprocessing, device, precision), images, split, options, seed=0
        )
        started = time.perf_counter()
        list(trainer.train(on_progress))
        return steps[-1] - started

    loader = DataLoader(
        Notebook(pixels, labels, resolution, backbone.mean, backbone.std), 64, num_workers=2
    )

    def notebook_forward() -> None:
        with torch.no_grad():
            for batch, _ in loader:
                plain(batch)

    def notebook_training() -> None:
        net = models.resnet18(num_classes=N_CLASSES)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9)
        for batch, truth in loader:
            optimizer.zero_grad()
            F.cross_entropy(net(batch), truth).backward()
            optimizer.step()

    plain = models.resnet18().eval()

    def our_forward() -> np.ndarray:
        features = ours.predict_logits(images, rows)
        assert features is not None  # at rank 0, the only one
        return features

    def our_head() -> None:
        features = our_forward()
        data = features, labels
        small = features[:n_val], labels[:n_val]
        options = LinearProbeOptions(epochs=EPOCHS)
        list(LinearProbe(data, small, N_CLASSES, options, seed=0, device=device).train())

    bare, train_bare = bare_forward(ours), bare_training()
    bare32 = bare_forward(ours32)
    measured: dict[str, list[float]] = {}
    size = options.batch_size
    for round_number in range(args.rounds + 1):  # the first warms up
        for name, seconds in (
            ("forward, bare", seconds_of(bare) / (n // BATCH_SIZE * BATCH_SIZE)),
            ("forward, ours", seconds_of(our_forward) / n),
            ("forward, bare, float32", seconds_of(bare32) / (n // BATCH_SIZE * BATCH_SIZE)),
            (
                "forward, ours, float32",
                seconds_of(lambda: ours32.predict_logits(images, rows)) / n,
            ),
            ("forward, notebook", seconds_of(notebook_forward) / n),
            ("training, bare", seconds_of(train_bare) / (n // size * size)),
            ("training, ours", our_training() / (n // size * size)),
            ("training, notebook", seconds_of(notebook_training) / n),
            ("head, ours", seconds_of(our_head)),
        ):
            if round_number:
                measured.setdefault(name, []).append(seconds)

    def rates(name: str) -> list[float]:
        return [1 / seconds for seconds in measured[name]]

    def ratio(first: str, second: str) -> float:
        """Median over the rounds of `first`'s images per second divided by `second`'s."""
        pairs = zip(rates(first), rates(second), strict=True)
        return statistics.median(a / b for a, b in pairs)

    report = Report(f"ResNet-18 at {resolution} px, {precision}, {torch.get_num_threads()} threads")
    per = "images/s"
    report.add("forward, bare network", rates("forward, bare"), per)
    report.add(
        "forward, ours (ratio to bare)",
        rates("forward, ours"),
        per,
        ratio("forward, ours", "forward, bare"),
    )
    report.add(
        "forward, ours in float32 (ratio to bare in float32)",
        rates("forward, ours, float32"),
        per,
        ratio("forward, ours, float32", "forward, bare, float32"),
    )
    report.add("forward, notebook: PIL in a DataLoader", rates("forward, notebook"), per)
    report.add(
        "forward, ours (ratio to notebook)",
        rates("forward, ours"),
        per,
        ratio("forward, ours", "forward, notebook"),
    )
    report.add("training, bare forward + backward", rates("training, bare"), per)
    report.add(
        "training, ours (ratio to bare)",
        rates("training, ours"),
        per,
        ratio("training, ours", "training, bare"),
    )
    report.add("training, notebook", rates("training, notebook"), per)
    report.add(
        "training, ours (ratio to notebook)",
        rates("training, ours"),
        per,
        ratio("training, ours", "training, notebook"),
    )
    # The notebook sends every image through the whole network in each of 15 epochs.
    notebook = [EPOCHS * n * seconds for seconds in measured["forward, notebook"]]
    head = statistics.median(
        theirs / ours for theirs, ours in zip(notebook, measured["head, ours"], strict=True)
    )
    report.add(f"{EPOCHS} epochs of the head, notebook (one epoch × {EPOCHS})", notebook, "s")
    report.add(
        f"{EPOCHS} epochs of the head, ours (notebook's time to ours)",
        measured["head, ours"],
        "s",
        head,
    )
    report.show()


if __name__ == "__main__":
    main()
