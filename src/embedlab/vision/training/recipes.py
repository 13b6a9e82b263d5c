"""Recipes of fine-tuning: a value for every hyperparameter, and how to change some of them.

Standard library only: the parser imports this before anything heavy.
"""

from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any

from embedlab.errors import OptionError

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
SCHEDULES = ("one_cycle", "step", "constant")
AUGMENTATIONS = ("none", "crop", "crop_flip", "zoom_flip", "notebook")
# What each freezes of a ResNet, with all that the ones before it freeze.
FREEZE = {
    "none": (),
    "stem": ("conv1", "bn1"),
    "stage1": ("layer1",),
    "stage2": ("layer2",),
    "all-but-last-stage": ("layer3",),
    "all-but-head": ("layer4",),  # of any other network, all but its last linear layer
}


@dataclass(frozen=True)
class FinetuneOptions:
    """Hyperparameters of fine-tuning, by default those of the recipe `fast`.

    lr               the schedule's highest learning rate.
    momentum         of sgd (Nesterov's, with `nesterov`) and rmsprop; adam's first moment.
    weight_decay     on weights of layers; never on biases and norms.
    schedule         one_cycle: up for `warmup` of all steps, then down to 0; step: a tenth after
                     every `step_epochs` epochs.
    resolution       pixels a side, first to last, spread evenly over the epochs. Validation is at
                     the epoch's, test and the served model at the last.
    crop_pct         side of the middle crop over the side before it, for validation and test.
    ema              decay per step of the exponential moving average of the weights; 0 for none.
    flip_view        test-time augmentation: mean logits of an image and its mirror image.
    freeze           what is not trained, BatchNorm statistics included.

    The parser checks the range of each value. Raises OptionError if there are more resolutions than
    epochs.
    """

    recipe: str = "fast"
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
# As published: SGD with momentum 0.9, whose rate is divided by ten after every 7 epochs.
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
RECIPES = MappingProxyType({recipe.recipe: recipe for recipe in (FAST, NOTEBOOK)})
RECIPE_FIELDS = tuple(field.name for field in fields(FinetuneOptions) if field.name != "recipe")


def make_options(recipe: str, **changes: Any) -> FinetuneOptions:
    """The recipe with those values changed that are not None.

    A recipe's resolutions are cut to the number of epochs, the last kept.
    """
    values = asdict(RECIPES[recipe]) | {k: v for k, v in changes.items() if v is not None}
    if changes.get("resolution") is None:
        values["resolution"] = values["resolution"][-values["epochs"] :]
    return FinetuneOptions(**values)
