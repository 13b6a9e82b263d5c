"""The work of a training, for its time estimate, in units of a training image at one pixel."""

from dataclasses import replace

from embedlab.vision.training.recipes import FinetuneOptions

FORWARD_COST = 0.35  # time of an image without gradients, relative to one of a training step


def validation_cost(options: FinetuneOptions) -> float:
    """The time of a validation image, relative to that of a training image."""
    return FORWARD_COST * (2 if options.flip_view else 1)


def epoch_work(options: FinetuneOptions, n_train: int, n_val: int) -> list[float]:
    """The work of each epoch."""
    n_images = n_train + n_val * validation_cost(options)
    epochs = range(1, options.epochs + 1)
    return [n_images * options.resolution_at(epoch) ** 2 for epoch in epochs]


def cheaper_options(options: FinetuneOptions, n_train: int, n_val: int) -> list[tuple[str, float]]:
    """Parameters that would shorten the training, each with the fraction of the time it takes."""
    changes = []
    if options.resolution[-1] > 64:
        changes.append(("resolution=64", replace(options, resolution=(64,)), n_train))
    if n_train > 10_000:
        changes.append(("train_limit=10000", options, 10_000))
    if options.epochs > 3:
        few = replace(options, epochs=3, resolution=options.resolution[-3:])
        changes.append(("epochs=3", few, n_train))
    total = sum(epoch_work(options, n_train, n_val))
    return [(text, sum(epoch_work(changed, n, n_val)) / total) for text, changed, n in changes]
