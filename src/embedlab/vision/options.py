"""What the image entry points take: names, recipes and limits.

Light on purpose: entry points read them before any heavy import.
"""

from dataclasses import dataclass, fields, replace
from types import MappingProxyType

from embedlab.errors import OptionError

# torchvision's classifiers of the ResNet family; their last layer is called `fc` in all of them.
BACKBONES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
# The parameters that say which images, and how they are split.
DATA = ("dataset", "split_seed", "train_limit", "val_limit", "test_limit")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
MAX_RESOLUTION = 1024
# A ResNet halves an image five times. Below 32 its last stage has one pixel to work on, of which
# oneDNN's bfloat16 gradient is not even the same twice (torch 2.14.1: 3 × 3, stride 2, on 1 × 1).
MIN_RESOLUTION = 32

# The best learning rate on validation images, with standardised features; L-BFGS scales itself.
LINEAR_PROBE_LR = {"sgd": 0.01, "adam": 0.001, "adamw": 0.001, "lbfgs": 1.0}
# With one update an epoch a head stays near its start. These are the best of eight ways to more
# updates on 126, 400, 1,500 and 4,317 photos (test loss and accuracy, 4 to 12 random splits).
UPDATES_PER_EPOCH, MIN_BATCH = 20, 8
MAPS = ("pca", "tsne")

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
SCHEDULES = ("one_cycle", "step", "constant")
AUGMENTATIONS = ("none", "crop", "crop_flip", "zoom_flip", "notebook")
# Each freezes what is named before it, too.
FREEZE = ("none", "stem", "stage1", "stage2", "all-but-last-stage", "all-but-head")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")


def _check_ranges(options: object, above_zero: tuple[str, ...], not_negative: tuple[str, ...]):
    for name in above_zero:
        if not getattr(options, name) > 0:
            raise OptionError(f"{name}: expected more than 0, got {getattr(options, name)}")
    for name in not_negative:
        if not getattr(options, name) >= 0:
            raise OptionError(f"{name}: expected 0 or more, got {getattr(options, name)}")


@dataclass(frozen=True)
class LinearProbeOptions:
    """How to fit the logistic regression. Raises OptionError where a value is out of range.

    lr            learning rate; None takes the optimizer's own default.
    weight_decay  L2 penalty as torch's optimizers have it (for lbfgs: added to the loss).
    epochs        passes over the training features (lbfgs: iterations of up to 20 evaluations).
    batch_size    images an update, at the most, of sgd, adam and adamw; lbfgs takes all at once.
    """

    optimizer: str = "adam"
    lr: float | None = None
    weight_decay: float = 0.001
    epochs: int = 15
    batch_size: int = 256

    def __post_init__(self):
        _check_choice("optimizer", self.optimizer, tuple(LINEAR_PROBE_LR))
        if self.lr is None:
            object.__setattr__(self, "lr", LINEAR_PROBE_LR[self.optimizer])
        _check_ranges(
            self, above_zero=("lr", "epochs", "batch_size"), not_negative=("weight_decay",)
        )

    @property
    def label(self) -> str:
        return f"{self.optimizer} lr={self.lr:g}"

    def batch_size_for(self, n_images: int) -> int:
        """`batch_size`, or less where an epoch over so few images would have too few updates."""
        return min(self.batch_size, max(MIN_BATCH, n_images // UPDATES_PER_EPOCH))


@dataclass(frozen=True)
class FinetuneOptions:
    """How to fine-tune: every ingredient. Raises OptionError where one is out of range.

    lr               the schedule's highest learning rate.
    momentum         of sgd (Nesterov's, with `nesterov`) and rmsprop; adam's first moment.
    weight_decay     on weights of layers; never on biases and norms.
    schedule         one_cycle: up for `warmup` of all steps, then down to 0; step: a tenth after
                     every `step_epochs` epochs.
    resolution       pixels a side, first to last, spread evenly over the epochs. Validation is at
                     the epoch's, test and the served model at the last.
    crop_pct         side of the middle crop over the side before it, when nothing is random.
    ema              decay of the weights' moving average, a step; 0 for none.
    flip_view        scores are the mean over an image and its mirror image.
    freeze           what stays as it was, BatchNorm statistics included.
    """

    recipe: str
    optimizer: str
    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    schedule: str
    warmup: float
    step_epochs: int
    epochs: int
    batch_size: int
    resolution: tuple[int, ...]
    crop_pct: float
    augment: str
    label_smoothing: float
    ema: float
    flip_view: bool
    freeze: str = "none"

    def __post_init__(self):
        object.__setattr__(self, "resolution", tuple(self.resolution))
        _check_choice("optimizer", self.optimizer, OPTIMIZERS)
        _check_choice("schedule", self.schedule, SCHEDULES)
        _check_choice("augment", self.augment, AUGMENTATIONS)
        _check_choice("freeze", self.freeze, FREEZE)
        _check_ranges(self, ("lr", "epochs", "batch_size", "step_epochs"), ("weight_decay",))
        for name in ("momentum", "label_smoothing", "ema", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(f"{name}: expected 0 to below 1, got {getattr(self, name)}")
        if not all(MIN_RESOLUTION <= r <= MAX_RESOLUTION for r in self.resolution):
            raise OptionError(
                f"resolution: expected {MIN_RESOLUTION} to {MAX_RESOLUTION} pixels, got "
                f"{','.join(map(str, self.resolution))}"
            )
        if len(self.resolution) > self.epochs:
            raise OptionError(
                f"resolution: expected at most one for each of {self.epochs} epochs, got "
                f"{len(self.resolution)}: name fewer, or raise epochs"
            )

    @property
    def label(self) -> str:
        return f"{self.recipe} {self.optimizer} lr={self.lr:g}"

    def resolution_at(self, epoch: int) -> int:
        """Of epoch 1, 2, …, `epochs`."""
        return self.resolution[(epoch - 1) * len(self.resolution) // self.epochs]


NOTEBOOK = FinetuneOptions(
    recipe="notebook",
    optimizer="sgd",
    lr=0.001,
    momentum=0.9,
    nesterov=False,
    weight_decay=0.0,
    schedule="step",
    warmup=0.0,
    step_epochs=7,
    epochs=15,
    batch_size=64,
    resolution=(224,),
    crop_pct=224 / 256,
    augment="notebook",
    label_smoothing=0.0,
    ema=0.0,
    flip_view=False,
)
FAST = FinetuneOptions(
    recipe="fast",
    optimizer="sgd",
    lr=0.01,
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-4,
    schedule="one_cycle",
    warmup=0.25,
    step_epochs=7,
    epochs=8,
    batch_size=128,
    resolution=(64, 64, 96, 96, 96, 128, 128, 128),
    crop_pct=1.0,
    augment="crop_flip",
    label_smoothing=0.1,
    ema=0.995,
    flip_view=True,
)
RECIPES = MappingProxyType({recipe.recipe: recipe for recipe in (FAST, NOTEBOOK)})
RECIPE_FIELDS = tuple(field.name for field in fields(FinetuneOptions) if field.name != "recipe")


def make_options(recipe: str, **changes: object) -> FinetuneOptions:
    """The recipe with those ingredients changed that are not None.

    A recipe's resolutions are cut to the number of epochs, the last kept.
    """
    _check_choice("recipe", recipe, tuple(RECIPES))
    given = {name: value for name, value in changes.items() if value is not None}
    base = RECIPES[recipe]
    if "resolution" not in given:
        given["resolution"] = base.resolution[-given.get("epochs", base.epochs) :]
    return replace(base, **given)
