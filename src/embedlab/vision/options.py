"""Names, limits and defaults that the image entry points share, and `LinearProbeOptions`.

Imports nothing heavy: the parsers import this before anything heavy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from embedlab.errors import OptionError

# torchvision's classifiers whose logits are the output of one linear layer, the last, by family.
FAMILIES = {
    "ResNet": "resnet18 resnet34 resnet50 resnet101 resnet152",
    "ResNeXt": "resnext50_32x4d resnext101_32x8d resnext101_64x4d",
    "Wide ResNet": "wide_resnet50_2 wide_resnet101_2",
    "RegNet": "regnet_x_400mf regnet_x_800mf regnet_x_1_6gf regnet_x_3_2gf regnet_x_8gf "
    "regnet_x_16gf regnet_x_32gf regnet_y_400mf regnet_y_800mf regnet_y_1_6gf regnet_y_3_2gf "
    "regnet_y_8gf regnet_y_16gf regnet_y_32gf regnet_y_128gf",
    "DenseNet": "densenet121 densenet161 densenet169 densenet201",
    "ShuffleNet": "shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0",
    "MobileNet": "mobilenet_v2 mobilenet_v3_small mobilenet_v3_large",
    "EfficientNet": "efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 "
    "efficientnet_b4 efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_v2_s "
    "efficientnet_v2_m efficientnet_v2_l",
    "ConvNeXt": "convnext_tiny convnext_small convnext_base convnext_large",
    "Swin": "swin_t swin_s swin_b swin_v2_t swin_v2_s swin_v2_b",
    "ViT": "vit_b_16 vit_b_32 vit_l_16 vit_l_32",
    "MaxViT": "maxvit_t",
    "VGG": "vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn",
    "AlexNet": "alexnet",
}
BACKBONES = tuple(name for names in FAMILIES.values() for name in names.split())
RESNETS = ("ResNet", "ResNeXt", "Wide ResNet")  # their stages have the same names
# Their position embedding or windows are made for one size.
FIXED_RESOLUTION = dict.fromkeys(FAMILIES["ViT"].split() + FAMILIES["MaxViT"].split(), 224)
ALEXNET_RESOLUTION = 64  # at lower resolutions, its second pooling has an empty output
# The modules of a ResNet that each value freezes, besides those of the values before it.
FREEZE = {
    "none": (),
    "stem": ("conv1", "bn1"),
    "stage1": ("layer1",),
    "stage2": ("layer2",),
    "all-but-last-stage": ("layer3",),
    "all-but-head": (),  # found by `freeze`: of any network, all but its last linear layer
}
# The parameters that choose the images and their split.
SPLIT_PARAMETERS = ("dataset", "split_seed", "train_limit", "val_limit", "test_limit")
IMAGE_ENTRY_POINTS = ("extract_features", "finetune")  # whose runs have a classifier
IMAGENET, NO_WEIGHTS = "imagenet", "none"  # values of `weights` that are not paths
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
IMAGE_MAPS = ("pca", "tsne")
MAX_RESOLUTION = 1024
# A ResNet halves an image five times. Below 32 px its last stage works on a single pixel, for which
# oneDNN's bfloat16 gradient is not deterministic (torch 2.14.1: 3 × 3, stride 2, on 1 × 1).
MIN_RESOLUTION = 32

# The best learning rate on validation images, with standardised features; L-BFGS scales its steps.
LINEAR_PROBE_LR = {"sgd": 0.01, "adam": 0.001, "adamw": 0.001, "lbfgs": 1.0}
# With one update per epoch the weights stay near their start. Of eight ways to make more updates,
# this was the best on 126, 400, 1,500 and 4,317 photos (test loss and accuracy, 4 to 12 random
# splits).
PROBE_UPDATES_PER_EPOCH, PROBE_MIN_BATCH = 20, 8


def has_stages(name: str) -> bool:
    """Whether `freeze` can name stages of this backbone."""
    return any(name in FAMILIES[family].split() for family in RESNETS)


def check_backbone(name: str, resolutions: Sequence[int], freeze: str = "none") -> None:
    """Raises OptionError for a resolution or stages to freeze that this network does not have."""
    fixed = FIXED_RESOLUTION.get(name)
    if fixed and set(resolutions) != {fixed}:
        found = ",".join(map(str, resolutions))
        raise OptionError(
            f"resolution: expected {fixed}, the only one that {name} takes, got {found}"
        )
    if name == "alexnet" and min(resolutions) < ALEXNET_RESOLUTION:
        raise OptionError(
            f"resolution: expected at least {ALEXNET_RESOLUTION} with backbone=alexnet, got "
            f"{min(resolutions)}"
        )
    if not has_stages(name) and freeze not in ("none", "all-but-head"):
        raise OptionError(
            f"freeze: expected none or all-but-head with backbone={name}, got {freeze}; only "
            f"networks of the families {', '.join(RESNETS)} have these stages"
        )


@dataclass(frozen=True)
class LinearProbeOptions:
    """How to fit the logistic regression. The parser checks the range of each value.

    lr            learning rate; None takes the optimizer's default, LINEAR_PROBE_LR.
    weight_decay  L2 penalty as torch's optimizers define it (lbfgs: added to the loss).
    epochs        passes over the training features (lbfgs: calls of up to 20 iterations).
    batch_size    upper bound on the images of an update of sgd, adam and adamw; lbfgs uses all.
    """

    optimizer: str = "adam"
    lr: float | None = None
    weight_decay: float = 0.001
    epochs: int = 15
    batch_size: int = 256
    momentum: ClassVar[float] = 0.9  # of sgd; β1 of adam and adamw
    nesterov: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.lr is None:
            object.__setattr__(self, "lr", LINEAR_PROBE_LR[self.optimizer])

    @property
    def label(self) -> str:
        return f"{self.optimizer} lr={self.lr:g}"

    def batch_size_for(self, n_images: int) -> int:
        """`batch_size`, or less if an epoch over `n_images` would have too few updates."""
        return min(self.batch_size, max(PROBE_MIN_BATCH, n_images // PROBE_UPDATES_PER_EPOCH))
