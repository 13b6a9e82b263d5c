"""The frozen network's penultimate layer as an embedding of images, computed once.

In: a backbone, images, a split. Out: `Features`, an array for each part. They are kept in the
cache under a key of everything that they depend on, so that a second run with another head or
learning rate reads them back.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from embedlab.datasets.cache import build_folder, cache_folder
from embedlab.distributed.collectives import assert_same_across_ranks, broadcast, is_main_process
from embedlab.progress import OnCount
from embedlab.vision.data.images import ImageDataset
from embedlab.vision.data.splits import Split
from embedlab.vision.inference import predict_logits
from embedlab.vision.models.backbone import Backbone
from embedlab_serving.preprocess import Preprocessing

PARTS = ("train", "val", "test")
ABOUT = "about.json"
CACHE_VERSION = 1  # goes up with every change of how features are computed


@dataclass(frozen=True)
class Features:
    """Embeddings, (n, n_features) float32 for each of PARTS.

    key         sha256 of what they depend on.
    was_cached  whether they were read rather than computed.
    seconds     wall time of computing them, now or when they were cached.
    """

    parts: Mapping[str, np.ndarray]
    key: str
    was_cached: bool
    seconds: float


def extract_features(
    backbone: Backbone,
    images: ImageDataset,
    split: Split,
    preprocessing: Preprocessing,
    device: str,
    precision: str,
    flip_view: bool = False,
    on_count: OnCount | None = None,
) -> Features | None:
    """Read from the cache, or computed and kept there. `on_count` hears of images done.

    Several processes compute together; the first, which looks whether they are cached, has the
    features, the others None.
    """
    rows = {part: getattr(split, part) for part in PARTS}
    key = features_key(backbone, images, rows, preprocessing, precision, flip_view)
    assert_same_across_ranks("weights or dataset", key)
    folder = cache_folder() / "features" / key[:32]

    def compute() -> Iterator[tuple[str, np.ndarray | None]]:
        n_done, n_all = 0, sum(map(len, rows.values()))
        backbone.network.to(device)
        for part, part_rows in rows.items():

            def count(done: int, _: int, before: int = n_done) -> None:
                if on_count is not None:
                    on_count(before + done, n_all)

            features = predict_logits(
                backbone.network,
                images.pixels,
                part_rows,
                preprocessing,
                device,
                precision,
                flip_view,
                count,
            )
            yield part, features
            n_done += len(part_rows)

    def fill(build):
        started = time.perf_counter()
        for part, features in compute():
            np.save(build / f"{part}.npy", features, allow_pickle=False)
        about = {"seconds": time.perf_counter() - started}
        (build / ABOUT).write_text(json.dumps(about), encoding="utf-8")

    was_cached = broadcast(lambda: _is_whole(folder))
    if not is_main_process():
        if not was_cached:
            list(compute())
        return None
    # As it was found: the others compute by now, also where another run has made it meanwhile.
    build_folder(folder, fill, lambda _: was_cached)
    parts = {part: np.load(folder / f"{part}.npy", allow_pickle=False) for part in PARTS}
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    return Features(parts, key, was_cached, about["seconds"])


def _is_whole(folder: Path) -> bool:
    try:
        for part in PARTS:  # mapped: a file that is shorter than it says is found without reading
            np.load(folder / f"{part}.npy", mmap_mode="r", allow_pickle=False)
        return "seconds" in json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, EOFError, ValueError, TypeError):
        return False


def features_key(
    backbone: Backbone,
    images: ImageDataset,
    rows: Mapping[str, np.ndarray],
    preprocessing: Preprocessing,
    precision: str,
    flip_view: bool,
) -> str:
    """sha256 over all that features depend on; the device is left out, being rounding alone."""
    about = {
        "version": CACHE_VERSION,
        "weights": backbone.digest,
        "data": images.digest,
        "rows": {part: hashlib.sha256(r.tobytes()).hexdigest() for part, r in rows.items()},
        "preprocessing": asdict(preprocessing),
        "precision": precision,
        "flip_view": flip_view,
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
