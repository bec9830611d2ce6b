"""Entropy, agreement, volumes and sides, by hand and against other formulations."""

import numpy as np
import pytest
from scipy import ndimage, stats
from scipy.special import softmax

from crossmoda.metrics import dice_per_class
from crossmoda.uncertainty import class_groups, pairwise_dice, predictive_entropy, sides_without, volumes_ml

TWO = class_groups([1], 2)


def test_groups():
    assert TWO == {"VS": (1,), "cochlea": (2,)}
    assert class_groups([1, 2], 3) == {"VS": (1, 2), "extra": (1,), "intra": (2,), "cochlea": (3,)}


def test_entropy_of_certain_and_of_even_probabilities():
    labels = np.zeros((7, 7, 7), np.uint8)
    labels[3, 3, 3] = 1
    certain = np.stack([labels == label for label in range(3)]).astype(np.float32)
    assert predictive_entropy(certain, labels) == 0
    assert predictive_entropy(np.full((3, 7, 7, 7), 1 / 3, np.float32), labels) == pytest.approx(1)
    assert predictive_entropy(np.full((4, 7, 7, 7), 1 / 4, np.float32), labels) == pytest.approx(1)
    # the foreground voxel and the 26 around it: one of 27 is even
    certain[:, 3, 3, 3] = 1 / 3
    assert predictive_entropy(certain, labels) == pytest.approx(1 / 27)
    certain[:, 0, 0, 0] = 1 / 3  # beyond the border
    assert predictive_entropy(certain, labels) == pytest.approx(1 / 27)
    assert predictive_entropy(certain, np.zeros_like(labels)) is None


def test_entropy_is_scipys():
    probabilities = softmax(2 * np.random.RandomState(0).randn(3, 8, 9, 6), axis=0)
    labels = np.zeros((8, 9, 6), np.uint8)
    labels[0:2, 4:6, 2:5] = 2  # at the edge
    region = ndimage.binary_dilation(labels > 0, np.ones((3, 3, 3)))
    expected = stats.entropy(probabilities, axis=0, base=3)[region].mean()
    assert predictive_entropy(probabilities, labels) == pytest.approx(expected)


def test_agreement_by_hand():
    a, b, c = (np.array(labels) for labels in ([1, 1, 0, 2], [1, 0, 0, 2], [0, 0, 0, 0]))
    # VS: a-b 2/3, a-c 0, b-c 0; cochlea: 1, 0, 0
    assert pairwise_dice([a, b, c], TWO) == pytest.approx({"VS": 2 / 9, "cochlea": 1 / 3})
    assert pairwise_dice([a], TWO) is None
    assert pairwise_dice([c, c], TWO) == {"VS": 1, "cochlea": 1}


def test_agreement_is_the_metrics_dice():
    members = np.random.RandomState(0).randint(0, 3, (2, 6, 6, 6)).astype(np.uint8)
    expected = dice_per_class(*members)
    assert pairwise_dice(list(members), TWO) == pytest.approx({"VS": expected[1], "cochlea": expected[2]})


def test_volumes():
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[0], labels[1, 0], labels[2, 0, :2] = 1, 2, 3
    affine = np.array([[0, 0.5, 0, 9], [-0.5, 0, 0, 9], [0, 0, 2.0, 9], [0, 0, 0, 1]])  # 0.5 mm3
    expected = {"VS": 0.01, "extra": 0.008, "intra": 0.002, "cochlea": 0.001}
    assert volumes_ml(labels, affine, class_groups([1, 2], 3)) == pytest.approx(expected)


def test_missing_sides():
    labels = np.zeros((10, 4, 4), np.uint8)
    ras, lps = np.eye(4), np.diag([-1.0, -1, 1, 1])
    assert sides_without(labels, ras, 2) == ["left", "right"]
    labels[2, 2, 2] = 2
    assert sides_without(labels, ras, 2) == ["right"]
    assert sides_without(labels, lps, 2) == ["left"]
    labels[8, 2, 2] = 2
    assert sides_without(labels, ras, 2) == []
