"""Nearest images, and the map of images."""

import numpy as np
import pytest
from toy_dataset import blobs

from embedlab.vision.evaluation.embedding_map import map_images, nearest, one_query_per_class


def test_nearest_images_against_a_loop():
    features = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    features[7] = features[3]  # a duplicate: the nearest, since the query is left out
    z = (features - features.mean(0)) / features.std(0)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    for query, neighbours in zip([3, 11], nearest(features, np.array([3, 11]), 4), strict=True):
        others = sorted((-z[query] @ z[i], i) for i in range(30) if i != query)
        assert neighbours.tolist() == [i for _, i in others[:4]]


@pytest.mark.parametrize("how", ["pca", "tsne"])
def test_the_map_separates_what_is_separate(how):
    features, labels = blobs(90)
    points, rows = map_images(features + 100 * labels[:, None].astype(np.float32), how, seed=0)
    assert points.shape == (90, 2)
    assert rows.tolist() == list(range(90))
    centres = np.array([points[labels == label].mean(0) for label in range(3)])
    nearest_centre = np.linalg.norm(points[:, None] - centres, axis=2).argmin(1)
    assert (nearest_centre == labels).all()
    assert one_query_per_class(labels).tolist() == [0, 1, 2]
