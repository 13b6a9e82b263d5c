"""Fine-tuning recipes: a value for every hyperparameter, and how to override some of them.

The recipe `auto` chooses some of the values (CHOSEN_BY_AUTO), mainly by the number and the size of
the images.

Imports nothing heavy: the parser imports this.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from embedlab.errors import OptionError
from embedlab.formatting import value_as_text
from embedlab.vision.options import FIXED_RESOLUTION, NO_WEIGHTS, check_backbone, has_stages

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
SCHEDULES = ("one_cycle", "step", "constant")
AUGMENTATIONS = ("none", "crop", "crop_flip", "zoom_flip", "notebook")
HEADS = ("linear_probe", "random")
BATCH_NORM = ("update", "keep")


@dataclass(frozen=True)
class FinetuneOptions:
    """Hyperparameters of fine-tuning, by default those of the recipe `fast`.

    optimizer        one of OPTIMIZERS.
    epochs           passes over the training images.
    batch_size       images per update, over all processes.
    augment          one of AUGMENTATIONS.
    label_smoothing  fraction of the target that is spread over all classes.
    head             the last layer's start: random, or the linear probe's weights on the frozen
                     features (LP-FT; Kumar et al., ICLR 2022), whose validation is epoch 0.
    batch_norm       whether BatchNorm's statistics are updated, or kept as loaded with the weights.
    lr               the schedule's highest learning rate.
    momentum         of sgd (Nesterov's, with `nesterov`) and rmsprop; β1 of adam and adamw.
    weight_decay     on weights of layers; never on biases and norms.
    schedule         one_cycle: up for `warmup` of all updates, then down to 0; step: a tenth after
                     every `step_epochs` epochs.
    resolution       pixels per side, first to last, spread evenly over the epochs. Validation uses
                     the epoch's resolution, the test and the served model use the last.
    crop_pct         side of the centre crop divided by the side before it, for validation and test.
    ema              decay per update of the exponential moving average of the weights; 0 for none.
    flip_view        test-time augmentation: mean logits of an image and its mirror image.
    freeze           what is not trained, BatchNorm statistics included.

    The parser checks the range of each value. Raises OptionError if there are more resolutions than
    epochs.
    """

    recipe: str = "fast"
    head: str = "random"
    batch_norm: str = "update"
    optimizer: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: str = "one_cycle"
    warmup: float = 0.25
    step_epochs: int = 7
    epochs: int = 8
    batch_size: int = 128
    resolution: tuple[int, ...] = (64, 64, 96, 96, 96, 128, 128, 128)
    crop_pct: float = 1.0
    augment: str = "crop_flip"
    label_smoothing: float = 0.1
    ema: float = 0.995
    flip_view: bool = True
    freeze: str = "none"

    def __post_init__(self) -> None:
        if len(self.resolution) > self.epochs:
            raise OptionError(
                f"resolution: expected at most one for each of {self.epochs} epochs, got "
                f"{len(self.resolution)}: name fewer, or raise epochs"
            )

    @property
    def label(self) -> str:
        return f"{self.recipe} {self.optimizer} lr={self.lr:g}"

    def resolution_at(self, epoch: int) -> int:
        """Pixels a side of epoch 1, 2, …, `epochs`."""
        return self.resolution[(epoch - 1) * len(self.resolution) // self.epochs]


FAST = FinetuneOptions()
# The course notebook's: SGD with momentum 0.9, whose rate is divided by ten after every 7 epochs.
NOTEBOOK = FinetuneOptions(
    recipe="notebook",
    lr=0.001,
    nesterov=False,
    weight_decay=0.0,
    schedule="step",
    warmup=0.0,
    epochs=15,
    batch_size=64,
    resolution=(224,),
    crop_pct=224 / 256,
    augment="notebook",
    label_smoothing=0.0,
    ema=0.0,
    flip_view=False,
)
# The fields that `auto` chooses by the data; its other values are those of `fast`.
CHOSEN_BY_AUTO = (
    "head", "batch_norm", "optimizer", "lr", "epochs", "batch_size", "resolution", "augment",
    "flip_view", "freeze",
)  # fmt: skip
RECIPES = {"auto": replace(FAST, recipe="auto"), "fast": FAST, "notebook": NOTEBOOK}
RECIPE_FIELDS = tuple(field.name for field in fields(FinetuneOptions) if field.name != "recipe")

FEW_IMAGES = 1_000  # below this, updating BatchNorm's statistics undoes the linear probe
MANY_IMAGES = 20_000  # from this number on, the smaller resolutions of `fast` save time
# The highest learning rate for a batch of 128; the rate is proportional to the batch size. That of
# SGD undoes the linear probe in the first epoch (docs/accuracy.md).
BASE_LR = {"sgd": 0.01, "rmsprop": 3e-4, "adam": 3e-4, "adamw": 3e-4}
UPDATES_PER_EPOCH, MIN_BATCH, MAX_BATCH = 20, 16, 128
# Early stages detect edges and textures of photos. Freezing them cuts the time of an epoch to two
# thirds, so `auto` trains for more epochs.
FREEZE_THOUSANDS, FREEZE_MANY = "stage2", "stem"
MIN_EPOCHS, MIN_EPOCHS_FROZEN = 8, 12
MIN_UPDATES, MIN_UPDATES_FEW = 290, 120
RATE_FACTOR_FEW = 0.8  # of the learning rate, below FEW_IMAGES
TINY_SIDE = 16  # pixels; such images are not photos, and the network has to change more for them
# Resolutions from the first epoch to the last, for few images, thousands and many, by the largest
# side of the images in pixels.
RESOLUTIONS = {
    TINY_SIDE: ((64,), (64,), (64,)),
    160: ((128,), (96, 128, 160), FAST.resolution),
    1 << 16: ((224,), (128, 160, 224, 224), (128, 160, 224, 224)),
}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raises OptionError for parameters that cannot be combined, before the images are read.

    The number and size of the images are unknown here, so one image is assumed: `auto` then
    chooses 120 epochs, more than a list of resolutions usually has.

    settings  parameters by name, including recipe and backbone.
    """
    resolve_options(settings, n_train=1, side=0)


def resolve_options(
    settings: Mapping[str, Any], n_train: int, side: int, is_mirror_sensitive: bool = False
) -> FinetuneOptions:
    """The options of a recipe for these images.

    settings  parameters by name: recipe, backbone, weights, and RECIPE_FIELDS, of which None is the
              recipe's value. If the recipe has more resolutions than epochs, the last are kept.
    n_train   number of training images.
    side      of the images as they are stored, in pixels; at most 256.
    is_mirror_sensitive
              whether `auto` must not mirror images: see `ProbedHead`.

    Raises OptionError for values that cannot be combined.
    """
    values = asdict(RECIPES[settings["recipe"]])
    if settings["recipe"] == "auto":
        values |= _chosen_by_auto(settings, n_train, side)
        if is_mirror_sensitive:
            values |= {"augment": "crop", "flip_view": False}
    values |= {name: settings[name] for name in RECIPE_FIELDS if settings[name] is not None}
    if settings["resolution"] is None:
        values["resolution"] = values["resolution"][-values["epochs"] :]
    options = FinetuneOptions(**values)
    check_backbone(settings["backbone"], options.resolution, options.freeze)
    return options


def chooses_mirroring(settings: Mapping[str, Any]) -> bool:
    """Whether the recipe decides if images are mirrored, in training or in scoring."""
    return settings["recipe"] == "auto" and None in (settings["augment"], settings["flip_view"])


def min_updates(n_train: int) -> int:
    """The minimum number of updates that `auto` makes, over all epochs."""
    return MIN_UPDATES_FEW if n_train < FEW_IMAGES else MIN_UPDATES


def min_epochs(freeze: str) -> int:
    """The minimum number of epochs that `auto` trains for when it freezes these stages."""
    return MIN_EPOCHS if freeze in ("none", "stem") else MIN_EPOCHS_FROZEN


def _chosen_by_auto(settings: Mapping[str, Any], n_train: int, side: int) -> dict[str, Any]:
    """The values of CHOSEN_BY_AUTO; each takes the user's `settings` into account."""
    backbone, is_pretrained = settings["backbone"], settings["weights"] != NO_WEIGHTS
    is_few = n_train < FEW_IMAGES and is_pretrained
    is_tiny = side <= TINY_SIDE and not is_few
    is_many = n_train >= MANY_IMAGES
    exponent = int(math.log2(max(1, n_train / UPDATES_PER_EPOCH)))
    batch_size = settings["batch_size"] or min(max(2**exponent, MIN_BATCH), MAX_BATCH)
    batch = min(batch_size, n_train)  # as in `Trainer`
    updates = n_train // batch  # in an epoch
    few, thousands, many = next(
        resolutions for largest, resolutions in RESOLUTIONS.items() if side <= largest
    )
    resolution = many if is_many else thousands
    if is_few:
        resolution = few
    if backbone in FIXED_RESOLUTION:
        resolution = (FIXED_RESOLUTION[backbone],)
    optimizer = settings["optimizer"] or ("sgd" if is_tiny else "adamw")
    freeze = "none"
    if is_pretrained and has_stages(backbone) and not (is_few or is_tiny):
        freeze = FREEZE_MANY if is_many else FREEZE_THOUSANDS
    freeze = settings["freeze"] or freeze
    epochs = max(min_epochs(freeze), math.ceil(min_updates(n_train) / updates))
    lr = BASE_LR[optimizer] * batch / 128 * (RATE_FACTOR_FEW if is_few else 1)
    return {
        "head": "linear_probe" if is_pretrained else "random",
        "batch_norm": "keep" if is_few else "update",
        "optimizer": optimizer,
        "batch_size": batch_size,
        "lr": float(f"{lr:.6g}"),  # as people write it: 3e-05, not 2.9999999999999997e-05
        "epochs": epochs,
        "resolution": resolution,
        "augment": "crop_flip" if is_few or is_tiny else "zoom_flip",
        "flip_view": True,
        "freeze": freeze,
    }


def explain_auto(
    n_train: int, side: int, settings: Mapping[str, Any], options: FinetuneOptions
) -> str:
    """A sentence on what `auto` chose and why, without the values given in `settings`."""
    size = f"{'fewer than' if n_train < FEW_IMAGES else 'at least'} {FEW_IMAGES:,} images"
    weights = "pretrained weights" if settings["weights"] != NO_WEIGHTS else "random weights"
    unmirrored = "the linear probe recognises mirrored images less well"
    reasons = {
        "head": weights,
        "batch_size": f"about {UPDATES_PER_EPOCH} updates an epoch, {MIN_BATCH} to {MAX_BATCH}",
        "lr": "in proportion to the batch",
        "epochs": f"at least {min_epochs(options.freeze)}, and {min_updates(n_train)} updates",
        "batch_norm": f"{weights}, {size}",
        "resolution": "by the images' size and number",
        "optimizer": f"images of {side} px",
        "augment": unmirrored if options.augment == "crop" else f"{size} of {side} px",
        "flip_view": "mirrored images are scored, too" if options.flip_view else unmirrored,
        "freeze": f"{weights}, {n_train:,} images",
    }
    chosen = (
        f"{name}={value_as_text(getattr(options, name))} ({reason})"
        for name, reason in reasons.items()
        if settings[name] is None
    )
    return f"recipe=auto, for {n_train:,} training images of {side} px: {', '.join(chosen)}."
