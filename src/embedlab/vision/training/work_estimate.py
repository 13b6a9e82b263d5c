"""The estimated work of a training run, in pixels of training images (images × resolution²)."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from embedlab.errors import OptionError
from embedlab.vision.training.recipes import FinetuneOptions, resolve_options

FEWER_TRAIN_IMAGES = 10_000
FORWARD_TIME = 0.35  # of an image without gradients, relative to a training step with it


def relative_validation_time(options: FinetuneOptions) -> float:
    """The time of a validation image, relative to that of a training image."""
    return FORWARD_TIME * (2 if options.flip_view else 1)


def epoch_work(options: FinetuneOptions, n_train: int, n_val: int) -> list[float]:
    """The work of each epoch."""
    n_images = n_train + n_val * relative_validation_time(options)
    epochs = range(1, options.epochs + 1)
    return [n_images * options.resolution_at(epoch) ** 2 for epoch in epochs]


def cheaper_options(
    settings: Mapping[str, Any], n_train: int, n_val: int, side: int
) -> Iterator[tuple[str, float]]:
    """Yield parameters that shorten a training run, each with its fraction of the present time.

    settings  parameters of the run, as in `resolve_options`.
    """

    def work(n: int, **changes: object) -> float:
        options = resolve_options({**settings, **changes}, n, side)
        return sum(epoch_work(options, n, n_val))

    total = work(n_train)
    for parameter, changes, n in (
        ("resolution=64", {"resolution": (64,)}, n_train),
        (f"train_limit={FEWER_TRAIN_IMAGES}", {}, min(n_train, FEWER_TRAIN_IMAGES)),
        ("epochs=3", {"epochs": 3}, n_train),
    ):
        with suppress(OptionError):  # for example, a backbone that accepts no other resolution
            share = work(n, **changes) / total
            if share < 1:
                yield parameter, share
