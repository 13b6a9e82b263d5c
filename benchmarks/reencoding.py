"""Accuracy lost by re-encoding images as JPEG: the originals, and copies at quality 75.

    python -m benchmarks.reencoding --images <folder of PNG images> --weights <path>

The copies have JPEG's usual chroma subsampling (4:2:0). Both are measured as in
`benchmarks.accuracy`.
"""

import argparse
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
from PIL import Image

from benchmarks.accuracy import measure, pairs, show

QUALITY = 75


def reencode(source: Path, target: Path) -> None:
    """Every image of a folder as JPEG, in the same folders."""
    for path in source.rglob("*.*"):
        copy = target / path.relative_to(source).with_suffix(".jpg")
        copy.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.convert("RGB").save(copy, quality=QUALITY, subsampling="4:2:0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="train/<class>/, test/<class>/")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--both", nargs="*", default=[], help="name=value for both entry points")
    parser.add_argument("--finetune", nargs="*", default=[], help="name=value for finetune")
    args = parser.parse_args()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    both = {"weights": args.weights, **pairs(args.both)}
    with TemporaryDirectory() as folder:
        jpeg = Path(folder, f"{args.images.name}, JPEG")
        reencode(args.images, jpeg)
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        os.environ["MLFLOW_EXPERIMENT_NAME"] = "reencoding"
        changes = pairs(args.finetune)
        show([measure(f"folder:{path}", seeds, both, changes) for path in (args.images, jpeg)])


if __name__ == "__main__":
    main()
