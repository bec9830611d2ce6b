from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from selftraining_cases import evidence, head, one_hot

from crossmoda.labels import IGNORE
from crossmoda.selftraining import (
    BorderBand,
    ChangedByCleaning,
    CleaningRule,
    Disagreement,
    LowConfidence,
    TopVoxelShare,
    ignored_voxels,
    make_pseudo_label,
)


def _row(labels: list[int], confidences: list[float], **kwargs):
    probabilities = [one_hot(np.array([[[label]]]), p) for label, p in zip(labels, confidences, strict=True)]
    shape = (1, 1, len(labels))
    return evidence(np.zeros(shape), probabilities=np.concatenate(probabilities, axis=-1), **kwargs)


def _marked(mask: np.ndarray) -> list[int]:
    assert mask.dtype == bool
    return np.flatnonzero(mask).tolist()


def test_low_confidence():
    found = _row([0, 1, 1, 2, 0], [0.55, 0.61, 0.5, 0.99, 0.9])
    assert _marked(LowConfidence(0.6)(found.labels, found)) == [0, 2]


def test_low_confidence_where_probabilities_are_broken():
    found = _row([0, 1, 2], [0.9, 0.9, 0.9])
    found.probabilities[1, 0, 0, 1] = np.nan
    assert _marked(LowConfidence(0.6)(found.labels, found)) == [1]


def test_top_share_of_each_class():
    found = _row([1, 1, 1, 1, 1, 2, 2, 0, 0], [0.5, 0.9, 0.7, 0.8, 0.6, 0.4, 0.99, 0.5, 0.9])
    assert _marked(TopVoxelShare(0.6)(found.labels, found)) == [0, 4]  # 3 of 5, 2 of 2
    assert _marked(TopVoxelShare(0.5)(found.labels, found)) == [0, 4, 5]
    assert _marked(TopVoxelShare(0.5, background=True)(found.labels, found)) == [0, 4, 5, 7]


@pytest.mark.parametrize("share", [0.05, 0.33, 0.6, 1.0])
def test_top_share_by_sorting(share):
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 3, (6, 7, 8)).astype(np.uint8)
    probabilities = one_hot(labels)
    confidence = rng.uniform(0.4, 1, labels.shape)
    np.put_along_axis(probabilities, labels[None].astype(int), confidence[None], axis=0)
    found = evidence(labels, probabilities=probabilities)
    ignored = TopVoxelShare(share)(labels, found)
    assert not ignored[labels == 0].any()
    for label in (1, 2):
        order = np.sort(found.confidence[labels == label])[::-1]
        kept = int(np.ceil(round(share * order.size, 6)))
        assert np.array_equal(np.sort(found.confidence[(labels == label) & ~ignored])[::-1], order[:kept])


def test_top_share_keeps_equals_and_refuses_other_shares():
    found = _row([1, 1, 1, 0], [0.8, 0.8, 0.8, 0.9])
    assert _marked(TopVoxelShare(0.4)(found.labels, found)) == []
    with pytest.raises(ValueError, match="share"):
        TopVoxelShare(0)


def test_disagreement():
    views = tuple(np.array(row, np.uint8).reshape(1, 1, 4) for row in ([1, 1, 0, 2], [1, 1, 0, 2], [1, 0, 1, 2]))
    found = _row([1, 1, 1, 2], [0.9] * 4, views=views)
    assert _marked(Disagreement()(found.labels, found)) == [1, 2]
    assert _marked(Disagreement(0.6)(found.labels, found)) == [2]  # two of three views say background
    assert _marked(Disagreement()(found.labels, _row([1, 1, 1, 2], [0.9] * 4))) == []


@pytest.mark.parametrize("width", [0.55, 1.0, 1.65])
def test_border_band_by_all_pairs(width):
    rng = np.random.default_rng(5)
    labels = np.zeros((9, 8, 6), np.uint8)
    labels[2:6, 2:6, 1:4] = 1
    labels[6:8, 3:5, 2:4] = 2
    labels[0, 7, 5] = rng.integers(1, 3)  # at the volume's end
    affine = np.diag([0.5, 0.8, 1.5, 1.0])
    points = np.argwhere(np.ones(labels.shape, bool)) * [0.5, 0.8, 1.5]
    near = cdist(points, points) <= width
    differs = labels.ravel()[:, None] != labels.ravel()[None]
    expected = (near & differs).any(axis=1).reshape(labels.shape)
    assert np.array_equal(BorderBand(width)(labels, evidence(labels, affine=affine)), expected)


def test_border_band_of_one_class_alone():
    empty = np.zeros((4, 4, 4), np.uint8)
    assert not BorderBand()(empty, evidence(empty)).any()
    full = np.full((4, 4, 4), 1, np.uint8)
    assert not BorderBand()(full, evidence(full)).any()


def test_changed_by_cleaning():
    found = _row([1, 2, 0], [0.9] * 3)
    cleaned = np.array([[[0, 2, 2]]], np.uint8)
    assert _marked(ChangedByCleaning()(cleaned, found)) == [0, 2]


def test_rules_together():
    found = _row([1, 1, 2, 0], [0.5, 0.9, 0.9, 0.9])
    cleaned = np.array([[[1, 1, 0, 0]]], np.uint8)
    assert _marked(ignored_voxels([LowConfidence(), ChangedByCleaning()], cleaned, found)) == [0, 2]
    assert _marked(ignored_voxels([], cleaned, found)) == []


class _DropCochlea(CleaningRule):
    def __call__(self, labels, evidence):
        return np.where(labels == 2, 0, labels).astype(np.uint8)


def test_pseudo_label():
    found = _row([1, 1, 2, 0], [0.5, 0.9, 0.9, 0.9])
    assert make_pseudo_label(found).ravel().tolist() == [1, 1, 2, 0]
    label = make_pseudo_label(found, [_DropCochlea()], [LowConfidence()])
    assert label.dtype == np.uint8
    assert label.ravel().tolist() == [IGNORE, 1, 0, 0]
    assert make_pseudo_label(found, [_DropCochlea()], [ChangedByCleaning()]).ravel().tolist() == [1, 1, IGNORE, 0]
    assert found.labels.ravel().tolist() == [1, 1, 2, 0]  # the evidence stays


def test_empty_prediction():
    labels = np.zeros((5, 5, 5), np.uint8)
    rules = [LowConfidence(), TopVoxelShare(), Disagreement(), BorderBand(), ChangedByCleaning()]
    assert not make_pseudo_label(evidence(labels, views=(labels, labels)), [], rules).any()


def test_broken_probabilities_are_ignored_not_background():
    labels, image = head()
    found = evidence(labels, image, probabilities=np.full((3, *labels.shape), np.nan, np.float32))
    assert (make_pseudo_label(found, [], [LowConfidence()]) == IGNORE).all()
