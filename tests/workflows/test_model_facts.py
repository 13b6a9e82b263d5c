"""The licences of data and weights, as model cards name them."""

import pytest

from embedlab.workflows.model_facts import (
    LICENCES,
    MOVIELENS_LICENCE,
    WEIGHTS_LICENCES,
    YOUR_OWN,
    data_licence,
    weights_licence,
)


@pytest.mark.parametrize(
    ("name", "licence"),
    [
        ("ml-latest-small", MOVIELENS_LICENCE),
        ("ml-32m", MOVIELENS_LICENCE),
        ("sample", LICENCES["sample"]),
        ("CIFAR-10", LICENCES["CIFAR-10"]),
        ("digits sample", LICENCES["digits sample"]),
        ("holiday images", YOUR_OWN),
        ("html-pages", YOUR_OWN),
        ("", YOUR_OWN),
    ],
)
def test_the_licence_of_data(name, licence):
    assert data_licence(name) == licence


def test_the_licence_of_weights():
    assert weights_licence("imagenet") == WEIGHTS_LICENCES["imagenet"]
    assert "non-commercial" in weights_licence("imagenet")
    assert weights_licence("/home/me/weights.pth") == YOUR_OWN
