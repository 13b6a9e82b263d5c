"""Image options: stages and resolutions of a backbone, and batch sizes of the linear probe."""

import pytest

from embedlab.errors import OptionError
from embedlab.vision.options import LinearProbeOptions, check_backbone


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


@pytest.mark.parametrize(
    ("n_images", "batch_size", "expected"),
    [(42_500, 256, 256), (1_273, 256, 63), (126, 256, 8), (3, 256, 8), (126, 4, 4)],
)
def test_an_epoch_over_few_images_has_several_updates(n_images, batch_size, expected):
    assert LinearProbeOptions(batch_size=batch_size).batch_size_for(n_images) == expected
