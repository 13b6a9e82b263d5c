"""The last layer of torchvision's classifiers: `fc`, `classifier.1`, `head`, … by family."""

from torch import nn


def head_name(network: nn.Module) -> str:
    """The name of the last linear layer, which gives the classes' logits."""
    return [name for name, part in network.named_modules() if isinstance(part, nn.Linear)][-1]
