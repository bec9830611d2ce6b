"""Post-processing rules on hand-made volumes."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import KeepLargestConnectedComponent
from scipy import ndimage

from crossmoda.errors import InputError
from crossmoda.postprocessing import (
    Classes,
    PostprocessLabelsd,
    apply_rules,
    largest_cochlea_per_side,
    largest_vs,
    side_of_middle,
    vs_near_cochlea,
    vs_not_above_cochlea,
    world_axis,
)

TWO = Classes()
THREE = Classes((1, 2), 3)
AFFINE = np.diag([0.5, 0.5, 2.0, 1.0])  # RAS, slices of 2 mm


def volume(**boxes):
    """Label map of shape (40, 20, 60); each box is (label, x, y, z) of slices."""
    labels = np.zeros((40, 20, 60), np.uint8)
    for label, *box in boxes.values():
        labels[tuple(slice(*span) for span in box)] = label
    return labels


COCHLEAE = {
    "left": (2, (5, 7), (9, 11), (20, 22)),
    "right": (2, (33, 35), (9, 11), (22, 24)),
}
LEVEL = (1, (10, 13), (8, 11), (20, 24))  # 36 voxels, level with the cochleae
HIGH = (1, (10, 16), (8, 14), (50, 54))  # 144 voxels, 60 mm above them


def without(labels, *boxes):
    expected = labels.copy()
    for _, *box in boxes:
        expected[tuple(slice(*span) for span in box)] = 0
    return expected


def test_largest_vs_is_monais_and_counts_parts_together():
    labels = volume(high=HIGH, level=LEVEL, **COCHLEAE)
    np.testing.assert_array_equal(largest_vs(labels, AFFINE, TWO), without(labels, LEVEL))
    monai = KeepLargestConnectedComponent([1], is_onehot=False, independent=False)(labels[None])[0]
    np.testing.assert_array_equal(largest_vs(labels, AFFINE, TWO), monai)
    # 20 + 20 voxels of two touching parts are more than 30 of one
    labels = volume(
        extra=(1, (2, 6), (2, 7), (5, 6)), intra=(2, (2, 6), (2, 7), (6, 7)), other=(1, (20, 30), (2, 5), (9, 10))
    )
    np.testing.assert_array_equal(largest_vs(labels, AFFINE, THREE), without(labels, (1, (20, 30), (2, 5), (9, 10))))


def test_han_keeps_the_largest_component_level_with_a_cochlea():
    labels = volume(high=HIGH, level=LEVEL, **COCHLEAE)
    np.testing.assert_array_equal(vs_near_cochlea(labels, AFFINE, TWO), without(labels, HIGH))


@pytest.mark.parametrize(("slice_", "kept"), [(32, True), (33, False), (11, True), (10, False)])
def test_han_reaches_20_mm_beyond_the_cochleae(slice_, kept):
    # cochleae at the mean slices 20.5 and 22.5, of 2 mm: within less than 10 slices
    far = (1, (10, 20), (2, 8), (slice_, slice_ + 1))
    labels = volume(far=far, level=LEVEL, **COCHLEAE)
    expected = without(labels, LEVEL if kept else far)
    np.testing.assert_array_equal(vs_near_cochlea(labels, AFFINE, TWO), expected)
    # the same scan stored upside down, and with the slice axis first
    flipped = AFFINE @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 59], [0, 0, 0, 1]])
    np.testing.assert_array_equal(vs_near_cochlea(labels[..., ::-1], flipped, TWO), expected[..., ::-1])
    first = AFFINE[:, [2, 0, 1, 3]]
    np.testing.assert_array_equal(vs_near_cochlea(labels.transpose(2, 0, 1), first, TWO), expected.transpose(2, 0, 1))


def test_han_reach_grows_with_the_distance_of_the_cochleae():
    # cochleae at the slices 10 and 30, 40 mm apart; the far component is 38 mm above the upper one
    far = (1, (10, 20), (2, 8), (49, 50))
    cochleae = {"a": (2, (5, 7), (9, 11), (10, 11)), "b": (2, (33, 35), (9, 11), (30, 31))}
    labels = volume(far=far, level=LEVEL, **cochleae)
    np.testing.assert_array_equal(vs_near_cochlea(labels, AFFINE, TWO), without(labels, LEVEL))


def test_han_borders():
    alone = volume(high=HIGH, **COCHLEAE)
    np.testing.assert_array_equal(vs_near_cochlea(alone, AFFINE, TWO), alone)
    both_high = volume(high=HIGH, higher=(1, (30, 32), (8, 14), (50, 54)), **COCHLEAE)
    assert not (vs_near_cochlea(both_high, AFFINE, TWO) == 1).any()
    no_cochlea = volume(high=HIGH, level=LEVEL)
    np.testing.assert_array_equal(vs_near_cochlea(no_cochlea, AFFINE, TWO), without(no_cochlea, LEVEL))
    empty = volume()
    np.testing.assert_array_equal(vs_near_cochlea(empty, AFFINE, TWO), empty)


def test_han_as_in_the_code():
    """The loop of Han's run_inference.py, on random components, in slices of 1 mm."""
    random = np.random.RandomState(0)
    changed = 0
    for _ in range(20):
        labels = np.zeros((30, 30, 90), np.uint8)
        for label in (1, 1, 1, 1, 2, 2):
            x, y, z = random.randint(0, (26, 26, 86))
            size = random.randint(1, 5, 3)
            labels[x : x + size[0], y : y + size[1], z : z + size[2]] = label
        vs, vs_count = ndimage.label(labels == 1, np.ones((3, 3, 3)))
        cochlea, cochlea_count = ndimage.label(labels == 2, np.ones((3, 3, 3)))
        slices = np.broadcast_to(np.arange(90), labels.shape)
        expected = labels.copy()
        if vs_count > 1:
            places = [slices[cochlea == n].mean() for n in range(1, cochlea_count + 1)]
            reach = max(max(places) - min(places), 20)
            best, best_size = -1, 0
            for n in range(1, vs_count + 1):
                place, size = slices[vs == n].mean(), (vs == n).sum()
                if (abs(place - min(places)) < reach or abs(place - max(places)) < reach) and size > best_size:
                    best, best_size = n, size
            expected[labels == 1] = 0
            if best != -1:
                expected[vs == best] = 1
        np.testing.assert_array_equal(vs_near_cochlea(labels, np.eye(4), TWO), expected)
        changed += (expected != labels).any()
    assert changed > 10


def test_medicl_drops_what_is_too_high_and_keeps_one_a_side():
    small_left = (1, (2, 4), (2, 4), (20, 22))  # 8 voxels, left as LEVEL
    right = (1, (26, 28), (8, 11), (20, 24))
    labels = volume(high=HIGH, level=LEVEL, small=small_left, opposite=right, **COCHLEAE)
    np.testing.assert_array_equal(vs_not_above_cochlea(labels, AFFINE, TWO), without(labels, HIGH, small_left))
    low = (1, (10, 16), (8, 14), (0, 4))  # as far below: not too high, and larger than LEVEL
    labels = volume(low=low, level=LEVEL, **COCHLEAE)
    np.testing.assert_array_equal(vs_not_above_cochlea(labels, AFFINE, TWO), without(labels, LEVEL))


@pytest.mark.parametrize(("slice_", "kept"), [(32, True), (33, False)])
def test_medicl_limit_is_15_slices_of_1_508_mm(slice_, kept):
    # cochlea centre 21.5, limit 22.62 mm = 11.31 slices of 2 mm
    box = (1, (10, 16), (8, 14), (slice_, slice_ + 1))
    labels = volume(box=box, **COCHLEAE)
    expected = labels if kept else without(labels, box)
    np.testing.assert_array_equal(vs_not_above_cochlea(labels, AFFINE, TWO), expected)


def test_medicl_without_cochlea_or_tumour():
    labels = volume(high=HIGH, level=LEVEL)
    np.testing.assert_array_equal(vs_not_above_cochlea(labels, AFFINE, TWO), without(labels, LEVEL))
    labels = volume(**COCHLEAE)
    np.testing.assert_array_equal(vs_not_above_cochlea(labels, AFFINE, TWO), labels)


def test_one_cochlea_a_side():
    specks = (2, (9, 10), (3, 5), (20, 22)), (2, (30, 31), (3, 5), (40, 42))
    labels = volume(a=specks[0], b=specks[1], high=HIGH, **COCHLEAE)
    np.testing.assert_array_equal(largest_cochlea_per_side(labels, AFFINE, TWO), without(labels, *specks))
    only_left = volume(left=COCHLEAE["left"], a=specks[0])
    np.testing.assert_array_equal(largest_cochlea_per_side(only_left, AFFINE, TWO), without(only_left, specks[0]))
    three = np.where(labels == 2, 3, labels).astype(np.uint8)
    np.testing.assert_array_equal(largest_cochlea_per_side(three, AFFINE, THREE), without(three, *specks))


def test_axes_and_sides_by_the_affine():
    lps = np.diag([-0.5, -0.5, 2.0, 1.0])
    assert world_axis(AFFINE, 0) == (0, 0.5)
    assert world_axis(lps, 0) == (0, -0.5)
    sagittal = np.array([[0, 0, 3.0, 0], [-0.7, 0, 0, 0], [0, -0.7, 0, 0], [0, 0, 0, 1]])
    assert world_axis(sagittal, 0) == (2, 3.0)
    assert world_axis(sagittal, 2) == (1, pytest.approx(-0.7))
    assert nib.aff2axcodes(sagittal) == ("P", "I", "R")
    points = np.array([[0, 0, 0], [9, 0, 0]])
    assert side_of_middle(points, AFFINE, (10, 10, 10)).tolist() == [False, True]
    assert side_of_middle(points, lps, (10, 10, 10)).tolist() == [True, False]


def test_rules_one_after_the_other_and_as_a_transform():
    specks = (2, (9, 10), (3, 5), (20, 22))
    labels = volume(high=HIGH, level=LEVEL, specks=specks, **COCHLEAE)
    rules = ["vs_near_cochlea", "largest_cochlea_per_side"]
    expected = without(labels, HIGH, specks)
    np.testing.assert_array_equal(apply_rules(labels, AFFINE, rules, TWO), expected)
    tensor = MetaTensor(torch.from_numpy(labels[None].astype(np.float32)), affine=AFFINE, meta={"filename_or_obj": "x"})
    out = PostprocessLabelsd("pred", rules)({"pred": tensor})["pred"]
    assert out.dtype == torch.float32
    assert out.meta["filename_or_obj"] == "x"
    np.testing.assert_array_equal(out.affine.numpy(), AFFINE)
    np.testing.assert_array_equal(out.numpy()[0], expected)
    np.testing.assert_array_equal(PostprocessLabelsd("pred", [])({"pred": tensor})["pred"].numpy()[0], labels)


def test_unknown_rule(capsys):
    with pytest.raises(InputError, match="no post-processing rule 'largest': name some of largest_vs"):
        apply_rules(volume(), AFFINE, ["largest"], TWO)
    with pytest.raises(SystemExit):
        PostprocessLabelsd("pred", ["largest"])
    assert "'largest'" in capsys.readouterr().err
