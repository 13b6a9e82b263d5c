"""The frozen network's penultimate layer as an embedding of images, computed once.

In: a backbone, images, a split. Out: `Features`, an array for each part. They are cached under a
key of everything that they depend on, so a second run with another linear probe reads them.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from embedlab.datasets.cache import DAMAGED_ARRAY, build_folder, cache_folder
from embedlab.distributed.collectives import assert_same_across_ranks, broadcast
from embedlab.distributed.env import is_main_process
from embedlab.progress import OnProgress, ignore_progress
from embedlab.vision.data.images import ImageDataset
from embedlab.vision.data.splits import Split
from embedlab.vision.inference import ImagePipeline

FEATURES_FILE = "features.npz"
SECONDS = "seconds"  # entry of the file, beside the parts: the time of computing them
CACHE_VERSION = 2  # goes up with every change of how features are computed or stored


@dataclass(frozen=True)
class Features:
    """Embeddings, (n, n_features) float32 for each part of the split.

    key         sha256 of what they depend on.
    was_cached  whether they were read rather than computed.
    seconds     wall time of computing them, now or when they were cached.
    """

    parts: Mapping[str, np.ndarray]
    key: str
    was_cached: bool
    seconds: float


def extract_features(
    digest: str,
    pipeline: ImagePipeline,
    images: ImageDataset,
    split: Split,
    on_progress: OnProgress = ignore_progress,
) -> Features | None:
    """The features of all parts, from the cache or computed and cached.

    digest       of the backbone's weights.
    pipeline     of the backbone without its last layer.
    on_progress  called with the number of images done, and of all.

    The ranks compute together. Only rank 0 reads the cache and gets the features; the others get
    None.
    """
    key = features_key(digest, pipeline, images, split)
    assert_same_across_ranks("weights or dataset", key)
    folder = cache_folder() / "features" / key[:32]
    pipeline.network.to(pipeline.device)
    cached = _read(folder / FEATURES_FILE, key) if is_main_process() else None
    if broadcast(lambda: cached is not None):
        return cached
    started = time.perf_counter()
    rows = np.concatenate([*split.parts.values()])
    features = pipeline.compute_outputs(images, rows, on_progress)
    if features is None:
        return None
    ends = np.cumsum([len(rows) for rows in split.parts.values()])
    parts = dict(zip(split.parts, np.split(features, ends[:-1]), strict=True))
    seconds = time.perf_counter() - started
    arrays = {**parts, SECONDS: np.array(seconds)}
    build_folder(folder, lambda work: np.savez(work / FEATURES_FILE, allow_pickle=False, **arrays))
    return Features(parts, key, False, seconds)


def features_key(digest: str, pipeline: ImagePipeline, images: ImageDataset, split: Split) -> str:
    """sha256 of all that features depend on, except the device, which changes rounding only."""
    parts = split.parts.items()
    depends_on = {
        "version": CACHE_VERSION,
        "weights": digest,
        "data": images.digest,
        "rows": {part: hashlib.sha256(rows.tobytes()).hexdigest() for part, rows in parts},
        "preprocessing": asdict(pipeline.preprocessing),
        "precision": pipeline.precision,
        "tta_flip": pipeline.flip_view,  # the name in the keys of features cached earlier
    }
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()


def _read(file: Path, key: str) -> Features | None:
    try:
        # Reading all arrays compares the checksums of the zip, which find any damage.
        with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as saved:
            parts = dict(saved)
        seconds = float(parts.pop(SECONDS))
    except DAMAGED_ARRAY:
        return None
    return Features(parts, key, True, seconds)
