"""Names, limits and defaults that the image entry points share, and `LinearProbeOptions`.

Standard library only: the parsers import this before anything heavy.
"""

from dataclasses import dataclass
from typing import ClassVar

# torchvision's classifiers of the ResNet family; their last layer is called `fc` in all of them.
BACKBONES = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *("wide_resnet50_2", "wide_resnet101_2"),
)
# The parameters that choose the images and their split.
DATA = ("dataset", "split_seed", "train_limit", "val_limit", "test_limit")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
MAPS = ("pca", "tsne")
MAX_RESOLUTION = 1024
# A ResNet halves an image five times. Below 32 px its last stage works on a single pixel, for which
# oneDNN's bfloat16 gradient is not deterministic (torch 2.14.1: 3 × 3, stride 2, on 1 × 1).
MIN_RESOLUTION = 32

# The best learning rate on validation images, with standardised features; L-BFGS scales itself.
LINEAR_PROBE_LR = {"sgd": 0.01, "adam": 0.001, "adamw": 0.001, "lbfgs": 1.0}
# With one update an epoch the weights stay near their start. These are the best of eight ways to
# more updates on 126, 400, 1,500 and 4,317 photos (test loss and accuracy, 4 to 12 random splits).
UPDATES_PER_EPOCH, MIN_BATCH = 20, 8


@dataclass(frozen=True)
class LinearProbeOptions:
    """How to fit the logistic regression. The parser checks the range of each value.

    lr            learning rate; 0 takes the optimizer's default, LINEAR_PROBE_LR.
    weight_decay  L2 penalty as torch's optimizers define it (lbfgs: added to the loss).
    epochs        passes over the training features (lbfgs: iterations of up to 20 evaluations).
    batch_size    upper bound on the images of an update of sgd, adam and adamw; lbfgs takes all.
    """

    optimizer: str = "adam"
    lr: float = 0.0
    weight_decay: float = 0.001
    epochs: int = 15
    batch_size: int = 256
    momentum: ClassVar[float] = 0.9  # of sgd; the first moment of adam and adamw
    nesterov: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "lr", self.lr or LINEAR_PROBE_LR[self.optimizer])

    @property
    def label(self) -> str:
        return f"{self.optimizer} lr={self.lr:g}"

    def batch_size_for(self, n_images: int) -> int:
        """`batch_size`, or less if an epoch over `n_images` would have too few updates."""
        return min(self.batch_size, max(MIN_BATCH, n_images // UPDATES_PER_EPOCH))
