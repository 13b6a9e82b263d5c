"""More pictures than fit into memory: decoding them, and training from the cache on disk.

    python -m benchmarks.pictures_on_disk --folder <where the made pictures go>

Run it where less memory is free than the cache takes (100,000 pictures of 96 px: 2.6 GiB), such as
under `systemd-run --scope -p MemoryMax=1500M`: then the pages of the cache do not stay in memory,
and every epoch reads the disk. What counts is the share of its time that training waits for data.
"""

import argparse
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.report import Report
from embedlab.datasets.pictures import locate_pictures
from embedlab.vision.backbone import classifier, load_backbone, new_head
from embedlab.vision.finetune import finetune
from embedlab.vision.forward import choose_precision
from embedlab.vision.options import options_of
from embedlab.vision.pictures import read_pictures
from embedlab.vision.preprocess import Preprocessing
from embedlab.vision.split import split_pictures

CLASSES = 10


def make(folder: Path, n_pictures: int, side: int) -> None:
    """JPEG files: smooth noise around a colour of the class, a folder a class."""

    def write(number: int) -> None:
        rng = np.random.default_rng(number)
        label = number % CLASSES
        colour = np.random.default_rng(1000 + label).integers(0, 255, 3)
        coarse = np.clip(colour + rng.normal(0, 60, (8, 8, 3)), 0, 255).astype(np.uint8)
        picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        picture.save(folder / str(label) / f"{number}.jpg", quality=85)

    for label in range(CLASSES):
        (folder / str(label)).mkdir(parents=True)
    with ThreadPoolExecutor() as threads:
        list(threads.map(write, range(n_pictures)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=2)
    what = "that it is trained at; the smaller, the faster the network, the sooner it starves"
    parser.add_argument("--resolution", type=int, default=32, help=what)
    args = parser.parse_args()
    if not args.folder.exists():
        make(args.folder, args.pictures, args.side)

    report = Report(
        f"{args.pictures:,} pictures of {args.side} px, trained at {args.resolution} px"
    )
    started = time.perf_counter()
    pictures = read_pictures(locate_pictures(f"folder:{args.folder}"))
    seconds = time.perf_counter() - started
    report.add("decoding, or finding them decoded", [len(pictures.labels) / seconds], "pictures/s")
    report.add("the cache", [pictures.images.nbytes / 2**30], "GiB")

    split = split_pictures(pictures, 0, 0, 2_000, 2_000)
    precision = choose_precision("auto", "cpu")
    backbone = load_backbone("resnet18", "none", 0)
    preprocessing = Preprocessing(args.resolution, 1.0, backbone.mean, backbone.std)
    options = options_of("fast", epochs=args.epochs, resolution=(args.resolution,))
    network = classifier(backbone, new_head(backbone, CLASSES, 0))
    steps = []
    finetune(
        network,
        pictures,
        split,
        preprocessing,
        options,
        0,
        "cpu",
        precision,
        on_step=steps.append,
    )
    report.add("training", [len(split.train) / step.seconds for step in steps], "pictures/s")
    waits = [100 * step.metrics["time/waiting_share"] for step in steps]
    report.add("of its time, waiting for pictures", waits, "%")
    report.add("peak memory", [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20], "GiB")
    report.show()


if __name__ == "__main__":
    main()
