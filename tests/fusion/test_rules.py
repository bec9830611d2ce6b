"""Fusion rules against hand-computed results and independent formulations."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax

from crossmoda.errors import InputError
from crossmoda.fusion import RULES, ArrayMembers, get_rule, majority, mean, staple, staple_probability, union


def random_members(count=4, classes=3, shape=(9, 8, 7), seed=0):
    logits = 2 * np.random.RandomState(seed).randn(count, classes, *shape)
    return softmax(logits, axis=1).astype(np.float32)


def line(*labels):
    return np.array(labels, np.uint8).reshape(-1, 1, 1)


def test_mean_by_hand():
    a = np.array([[0.6, 0.1], [0.4, 0.8], [0.0, 0.1]], np.float32).reshape(3, 2, 1, 1)
    b = np.array([[0.1, 0.3], [0.5, 0.2], [0.4, 0.5]], np.float32).reshape(3, 2, 1, 1)
    fused = mean(ArrayMembers(probability_maps=[a, b]))
    np.testing.assert_allclose(fused.probabilities[:, :, 0, 0].T, [[0.35, 0.45, 0.2], [0.2, 0.5, 0.3]], atol=1e-6)
    assert fused.labels.ravel().tolist() == [1, 1]
    assert fused.labels.dtype == np.uint8


def test_mean_is_numpys_and_leaves_the_members_alone():
    maps = random_members()
    before = maps.copy()
    fused = mean(ArrayMembers(probability_maps=list(maps)))
    np.testing.assert_allclose(fused.probabilities, maps.mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(fused.labels, maps.mean(axis=0).argmax(axis=0))
    np.testing.assert_array_equal(maps, before)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_majority_is_scipys_mode(count):
    labels = np.random.RandomState(count).randint(0, 4, (count, 6, 7, 8)).astype(np.uint8)
    fused = majority(ArrayMembers(label_maps=list(labels), num_classes=4))
    np.testing.assert_array_equal(fused.labels, stats.mode(labels, axis=0).mode)
    assert fused.probabilities is None


def test_union_by_hand():
    # voxels: none, one member VS, one member cochlea, both classes (2 VS against 1 cochlea), tie, all VS
    a, b, c = line(0, 1, 0, 1, 1, 1), line(0, 0, 0, 1, 2, 1), line(0, 0, 2, 2, 0, 1)
    assert union(ArrayMembers([a, b, c])).labels.ravel().tolist() == [0, 1, 2, 1, 1, 1]


def test_union_settles_conflicts_by_mean_probability():
    a, b, c = line(1, 1), line(1, 2), line(2, 0)
    maps = np.zeros((3, 3, 2, 1, 1), np.float32)
    maps[:, :, 0, 0, 0] = [[0.0, 0.55, 0.45], [0.0, 0.55, 0.45], [0.0, 0.1, 0.9]]  # mean VS 0.4, cochlea 0.6
    maps[:, :, 1, 0, 0] = [[0.1, 0.9, 0.0], [0.1, 0.3, 0.6], [0.9, 0.1, 0.0]]  # mean VS 0.43, cochlea 0.2
    assert union(ArrayMembers([a, b, c], list(maps))).labels.ravel().tolist() == [2, 1]
    assert union(ArrayMembers([a, b, c])).labels.ravel().tolist() == [1, 1]


def test_union_covers_each_members_foreground_and_nothing_else():
    labels = np.random.RandomState(0).choice(3, (4, 9, 9, 9), p=[0.9, 0.06, 0.04]).astype(np.uint8)
    fused = union(ArrayMembers(list(labels))).labels
    np.testing.assert_array_equal(fused > 0, (labels > 0).any(axis=0))
    assert all(fused[index] in labels[(slice(None), *index)] for index in np.ndindex(fused.shape))


def numpy_staple(masks, iterations=1000):
    """Warfield 2004, equations 14 to 20, with the prior of ITK: the members' mean."""
    d = masks.reshape(len(masks), -1).astype(float)
    prior = d.mean()
    p = q = np.full(len(d), 0.99999)
    for _ in range(iterations):
        a = prior * np.prod(np.where(d == 1, p[:, None], 1 - p[:, None]), axis=0)
        b = (1 - prior) * np.prod(np.where(d == 0, q[:, None], 1 - q[:, None]), axis=0)
        w = a / (a + b)
        former = p, q
        p, q = (d * w).sum(1) / w.sum(), ((1 - d) * (1 - w)).sum(1) / (1 - w).sum()
        if np.abs(p - former[0]).max() + np.abs(q - former[1]).max() < 1e-12:
            break
    return w.reshape(masks.shape[1:])


def noisy(truth, rates, seed=0):
    random = np.random.RandomState(seed)
    return np.stack([truth ^ (random.rand(*truth.shape) < rate) for rate in rates])


def test_staple_is_a_plain_em():
    truth = np.zeros((16, 16, 8), bool)
    truth[4:12, 5:11, 2:6] = True
    masks = noisy(truth, (0.02, 0.05, 0.1, 0.3))
    np.testing.assert_allclose(staple_probability(masks), numpy_staple(masks), atol=2e-3)
    as_read_from_files = np.stack([mask.T for mask in masks]).transpose(0, 3, 2, 1)
    np.testing.assert_allclose(staple_probability(as_read_from_files), numpy_staple(masks), atol=2e-3)


def test_staple_trusts_the_better_members():
    truth = np.zeros((20, 20, 10), bool)
    truth[:10] = True
    masks = noisy(truth, (0.02, 0.02, 0.4, 0.4, 0.4))
    members = ArrayMembers(list(masks.astype(np.uint8)))
    errors = {rule.__name__: (rule(members).labels != truth).mean() for rule in (staple, majority)}
    assert errors["majority"] > 0.05
    assert errors["staple"] < 0.5 * errors["majority"]


def test_staple_of_two_classes_is_a_plain_em_of_each():
    truth = np.zeros((20, 20, 10), np.uint8)
    truth[4:10, 4:10, 2:8] = 1
    truth[13:17, 13:17, 2:8] = 2
    random = np.random.RandomState(1)
    members = [np.where(random.rand(20, 20, 10) < 0.1, random.randint(0, 3, truth.shape), truth) for _ in range(4)]
    members = [member.astype(np.uint8) for member in members]
    expected = np.stack([numpy_staple(np.stack(members) == label) for label in (1, 2)])
    labels = np.where(expected.max(axis=0) > 0.5, expected.argmax(axis=0) + 1, 0)
    assert (staple(ArrayMembers(members)).labels != labels).mean() < 0.001
    assert (labels != truth).mean() < 0.02


def test_staple_of_equal_or_empty_members():
    labels = np.zeros((10, 10, 10), np.uint8)
    assert not staple(ArrayMembers([labels] * 3)).labels.any()
    labels[3:5, 3:5, 3:5] = 1
    labels[7, 7, 7] = 2
    np.testing.assert_array_equal(staple(ArrayMembers([labels] * 3)).labels, labels)
    np.testing.assert_array_equal(staple(ArrayMembers([labels])).labels, labels)


@pytest.mark.parametrize("name", RULES)
def test_equal_members_stay_as_they_are(name):
    maps = random_members(1, classes=4)[0]
    fused = get_rule(name).fuse(ArrayMembers(probability_maps=[maps] * 3, num_classes=4))
    np.testing.assert_array_equal(fused.labels, maps.argmax(axis=0))


def test_unknown_rule():
    with pytest.raises(InputError, match="no fusion rule 'median': take one of mean, majority"):
        get_rule("median")
