"""More images than fit into memory: decoding them, and training from the cache on disk.

    python -m benchmarks.images_on_disk --folder <where the images go>

Run it with less free memory than the cache takes (100,000 images of 96 px: 2.6 GiB), for example
under `systemd-run --scope -p MemoryMax=1500M`. The cache's pages then do not stay in memory, and
every epoch reads from disk. The result of interest is the share of training time spent waiting for
images.
"""

import argparse
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.timing import Report, timed
from embedlab.datasets.image_source import locate_images
from embedlab.device import choose_precision
from embedlab.process import peak_memory
from embedlab.vision.backbone import attach_head, load_backbone, new_head
from embedlab.vision.data.images import read_images
from embedlab.vision.data.splits import split_images
from embedlab.vision.inference import ImagePipeline
from embedlab.vision.training.recipes import FinetuneOptions
from embedlab.vision.training.trainer import Trainer

CLASSES = 10


def make(folder: Path, n_images: int, side: int) -> None:
    """Write JPEG files, one folder per class: smooth noise around the class's colour."""

    def write(number: int) -> None:
        rng = np.random.default_rng(number)
        label = number % CLASSES
        colour = np.random.default_rng(1000 + label).integers(0, 255, 3)
        coarse = np.clip(colour + rng.normal(0, 60, (8, 8, 3)), 0, 255).astype(np.uint8)
        image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        image.save(folder / str(label) / f"{number}.jpg", quality=85)

    for label in range(CLASSES):
        (folder / str(label)).mkdir(parents=True)
    with ThreadPoolExecutor() as threads:
        list(threads.map(write, range(n_images)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=2)
    help_text = "resolution in pixels; a smaller one makes data loading the bottleneck"
    parser.add_argument("--resolution", type=int, default=32, help=help_text)
    args = parser.parse_args()
    if not args.folder.exists():
        unfinished = args.folder.with_suffix(".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        make(unfinished, args.images, args.side)
        unfinished.rename(args.folder)

    report = Report(f"{args.images:,} images of {args.side} px, trained at {args.resolution} px")
    images, seconds = timed(lambda: read_images(locate_images(f"folder:{args.folder}")))
    report.add("decoding, or finding them decoded", [len(images.labels) / seconds], "images/s")
    report.add("the cache", [images.pixels.nbytes / 2**30], "GiB")

    split = split_images(images, 0, 0, 2_000, 2_000)
    precision = choose_precision("auto", "cpu")
    backbone = load_backbone("resnet18", "none", 0)
    options = FinetuneOptions(epochs=args.epochs, resolution=(args.resolution,))
    network = attach_head(backbone, new_head(backbone, CLASSES, 0))
    preprocessing = backbone.preprocessing(args.resolution, 1.0)
    pipeline = ImagePipeline(network, preprocessing, "cpu", precision)
    trainer = Trainer(pipeline, images, split, options, seed=0)
    history = [epoch.record for epoch in trainer.train()]
    report.add(
        "training", [len(split.train) / (record.seconds or 1) for record in history], "images/s"
    )
    waits = [100 * record.metrics["time/waiting_share"] for record in history]
    report.add("training time spent waiting for images", waits, "%")
    report.add("peak memory", [peak_memory() / 2**30], "GiB")
    report.show()


if __name__ == "__main__":
    main()
