"""Options of images: the stages and resolutions that a backbone takes."""

import pytest

from embedlab.errors import OptionError
from embedlab.vision.options import check_backbone


def test_freezing_a_stage_is_refused_for_a_network_without_stages():
    check_backbone("resnext50_32x4d", [64], "stage1")
    check_backbone("swin_t", [64, 96], "all-but-head")
    with pytest.raises(OptionError, match=r"^freeze: expected none or all-but-head with backbone="):
        check_backbone("swin_t", [64], "stage1")


@pytest.mark.parametrize(
    ("name", "resolutions", "expected"),
    [("vit_b_16", [96, 224], "224, the only"), ("alexnet", [32, 64], "at least 64")],
)
def test_a_resolution_that_the_network_does_not_take_is_refused(name, resolutions, expected):
    with pytest.raises(OptionError, match=f"^resolution: expected {expected}"):
        check_backbone(name, resolutions)
