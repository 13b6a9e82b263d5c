"""Accuracy lost by re-encoding images as JPEG: the originals, and copies at quality 75.

    python -m benchmarks.reencoding --images <folder of PNG images> --weights <path>

The copies have JPEG's usual chroma subsampling (4:2:0). Originals and copies are measured as in
`benchmarks.accuracy`.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from benchmarks.accuracy import add_options, compare

QUALITY = 75


def reencode(source: Path, target: Path) -> None:
    """Write every image of `source` as JPEG to the same subfolder of `target`."""
    for path in source.rglob("*.*"):
        copy = target / path.relative_to(source).with_suffix(".jpg")
        copy.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.convert("RGB").save(copy, quality=QUALITY, subsampling="4:2:0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="train/<class>/, test/<class>/")
    add_options(parser)
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        jpeg = Path(folder, f"{args.images.name}, JPEG")
        reencode(args.images, jpeg)
        datasets = [f"folder:{path}" for path in (args.images, jpeg)]
        compare(datasets, args, f"sqlite:///{folder}/mlflow.db", "reencoding")


if __name__ == "__main__":
    main()
