from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from selftraining_cases import THREE, TWO, evidence, head

from crossmoda.errors import InputError
from crossmoda.metrics import dice_per_class
from crossmoda.postprocessing import Classes, largest_vs
from crossmoda.selftraining import CochleaByContrast, Components, FillHoles, IntraMeatalByContrast, clean
from crossmoda.selftraining.cleaning import largest_component

RULES = [CochleaByContrast(), IntraMeatalByContrast(), Components(), FillHoles()]


def test_largest_component():
    mask = np.array([[[1, 1, 0, 1, 0, 1, 1, 1]]], bool)
    assert np.flatnonzero(largest_component(mask)).tolist() == [5, 6, 7]
    assert not largest_component(np.zeros((2, 2, 2), bool)).any()
    corners = np.zeros((3, 3, 3), bool)
    corners[0, 0, 0] = corners[1, 1, 1] = True
    assert largest_component(corners).sum() == 2


@pytest.mark.parametrize("rule", RULES)
class TestEveryRule:
    def test_empty_prediction(self, rule):
        labels, image = head()
        empty = np.zeros_like(labels)
        assert np.array_equal(rule(empty, evidence(empty, image)), empty)

    def test_right_labels_stay(self, rule):
        labels, image = head()
        dice = dice_per_class(rule(labels, evidence(labels, image)), labels)
        assert min(dice.values()) > 0.99

    def test_input_stays_and_dtype(self, rule):
        labels, image = head()
        labels[10, 11, 5] = 2
        before = labels.copy()
        cleaned = rule(labels, evidence(labels, image))
        assert np.array_equal(labels, before)
        assert cleaned.dtype == np.uint8

    @pytest.mark.parametrize("value", [0.0, np.nan])
    def test_scan_without_contrast(self, rule, value):
        labels, image = head()
        assert np.array_equal(rule(labels, evidence(labels, np.full_like(image, value))), labels)

    def test_one_side_missing(self, rule):
        labels, image = head()
        labels[30:] = 0
        assert np.array_equal(rule(labels, evidence(labels, image)), labels)


def _otsu(values: np.ndarray) -> float:
    """The value with the greatest variance between those up to it and those beyond it."""
    candidates = np.unique(values)[:-1]
    groups = [(values[values <= c], values[values > c]) for c in candidates]
    between = [low.size * high.size * (low.mean() - high.mean()) ** 2 for low, high in groups]
    return float(candidates[np.argmax(between)])


class TestCochleaByContrast:
    def _clean(self, labels, image, **kwargs):
        return CochleaByContrast(**kwargs)(labels, evidence(labels, image))

    def test_too_large_ones_shrink(self):
        truth, image = head()
        # One voxel larger on each side, in bone.
        large = np.where(ndimage.binary_dilation(truth == 2, np.ones((3, 3, 3))) & (truth == 0), 2, truth)
        assert dice_per_class(large, truth)[2] < 0.4
        assert np.array_equal(self._clean(large.astype(np.uint8), image), truth)

    def test_too_small_ones_grow_by_the_dilation_alone(self):
        truth, image = head()
        small = truth.copy()
        small[truth == 2] = 0
        small[7, 10:13, 5:8] = small[33, 14:17, 5:8] = 2  # the middle of three layers
        assert np.array_equal(self._clean(small, image, dilation_mm=1.0), truth)
        small[7, 10:13, 5:8] = 0
        small[6, 10:13, 5:8] = 2
        found = self._clean(small, image, dilation_mm=1.0)
        assert (found[6:8] == truth[6:8]).all()
        assert not found[8, 10:13].any()

    def test_threshold_is_otsu_of_the_surroundings(self):
        labels = np.zeros((15, 15, 9), np.uint8)
        labels[6:9, 6:9, 3:6] = 2
        bone = np.random.default_rng(6).uniform(0, 30, labels.shape)
        image = np.where(labels == 2, 130 - bone, bone)
        image[6, 6, 3] = 25  # as dark as bone
        threshold = _otsu(image[ndimage.distance_transform_edt(labels != 2) <= 3])
        assert 25 < threshold < 100
        expected = labels.copy()
        expected[6, 6, 3] = 0
        assert np.array_equal(self._clean(labels, image), expected)

    def test_bright_pieces_nearby_do_not_join(self):
        truth, image = head()
        image[4, 9, 5] = 140  # not beside the cochlea
        image[7, 8, 6] = 140  # two voxels away
        assert np.array_equal(self._clean(truth, image, dilation_mm=2.0), truth)

    def test_tumour_is_left_alone(self):
        truth, image = head()
        labels = truth.copy()
        labels[9:14, 10:13, 5:8] = 1
        image[9:14, 10:13, 5:8] = 140  # as bright as the cochlea beside it
        assert (self._clean(labels, image)[labels == 1] == 1).all()

    def test_three_classes(self):
        truth, image = head()
        large = np.where(ndimage.binary_dilation(truth == 2) & (truth == 0), 2, truth)
        three = np.where(large == 2, 3, large).astype(np.uint8)
        found = CochleaByContrast()(three, evidence(three, image, classes=THREE))
        assert np.array_equal(found, np.where(truth == 2, 3, truth))

    def test_broken_voxels_are_no_cochlea(self):
        truth, image = head()
        image[7, 11, 6] = np.nan
        found = self._clean(truth, image)
        assert found[7, 11, 6] == 0
        assert (found == 2).sum() == (truth == 2).sum() - 1

    def test_surroundings_in_mm(self):
        truth, image = head()
        affine = np.diag([1.0, 1.0, 5.0, 1.0])  # next slices lie beyond the dilation
        small = truth.copy()
        small[..., 5][truth[..., 5] == 2] = 0
        found = CochleaByContrast(dilation_mm=1.0)(small, evidence(small, image, affine=affine))
        assert np.array_equal(found, small)


class TestIntraMeatal:
    """A canal of tissue (70) in bone (20), with fluid (150) taken for tumour at its end."""

    def _canal(self) -> tuple[np.ndarray, np.ndarray]:
        labels = np.zeros((40, 12, 12), np.uint8)
        image = np.full(labels.shape, 20.0)
        labels[4:7, 5:8, 5:8] = 3
        image[labels == 3] = 150
        labels[9:17, 4:8, 4:8] = 2
        labels[17:30, 3:9, 3:9] = 1
        image[np.isin(labels, (1, 2))] = 70
        image[9:11, 4:8, 4:8] = 150
        image[24, 5, 5] = 150  # a cyst beyond the canal
        image += np.random.default_rng(0).normal(0, 2, labels.shape)
        return labels, image

    def test_fluid_leaves_the_intra_meatal_part_only(self):
        labels, image = self._canal()
        expected = labels.copy()
        expected[9:11][labels[9:11] == 2] = 0
        found = IntraMeatalByContrast(intra=2)(labels, evidence(labels, image, classes=THREE))
        assert np.array_equal(found, expected)

    def test_whole_tumour_near_the_cochlea(self):
        labels, image = self._canal()
        two = np.array([0, 1, 1, 2], np.uint8)[labels]
        expected = two.copy()
        expected[9:11][two[9:11] == 1] = 0
        found = IntraMeatalByContrast()(two, evidence(two, image, classes=TWO))
        assert np.array_equal(found, expected)  # the cyst lies more than 11.8 mm from the cochlea

    def test_pieces_go_with_the_fluid(self):
        labels, image = self._canal()
        image[9] = np.where(labels[9] == 2, 70, image[9])
        image[10:12] = np.where(labels[10:12] == 2, 150, image[10:12])
        found = IntraMeatalByContrast(intra=2)(labels, evidence(labels, image, classes=THREE))
        assert not np.isin(found[9:12], (1, 2)).any()  # the layer of tissue beyond the fluid is an island
        assert np.array_equal(found[12:], labels[12:])

    def test_the_larger_side_of_a_gap_stays_and_so_does_what_hangs_on_the_tumour(self):
        labels, image = self._canal()
        image[9:15] = np.where(labels[9:15] == 2, 70, image[9:15])
        image[15:16] = np.where(labels[15:16] == 2, 150, image[15:16])
        found = IntraMeatalByContrast(intra=2)(labels, evidence(labels, image, classes=THREE))
        expected = labels.copy()
        expected[15][labels[15] == 2] = 0
        assert np.array_equal(found, expected)

    def test_a_part_that_is_bright_itself_stays(self):
        labels, image = self._canal()
        image[labels == 2] = 150
        assert np.array_equal(IntraMeatalByContrast(intra=2)(labels, evidence(labels, image, classes=THREE)), labels)

    def test_a_box_of_two_grey_levels_stays(self):
        labels, image = self._canal()
        for outlier in (20.0, 1e9):  # with it there are three, but not three bins of a histogram
            image = np.where(labels == 2, 70.0, 20.0)
            image[12, 5, 5] = outlier
            found = IntraMeatalByContrast(intra=2)(labels, evidence(labels, image, classes=THREE))
            assert np.array_equal(found, labels)

    def test_without_cochlea_a_whole_tumour_has_no_canal(self):
        labels, image = self._canal()
        two = np.array([0, 1, 1, 0], np.uint8)[labels]
        assert np.array_equal(IntraMeatalByContrast()(two, evidence(two, image)), two)


def test_components_are_those_of_postprocessing():
    labels, image = head()
    labels[25:28, 10:12, 4:6] = 1
    labels[2, 20, 10] = 2
    found = Components()(labels, evidence(labels, image))
    assert np.array_equal(found == 1, largest_vs(labels, np.eye(4), Classes()) == 1)
    assert np.array_equal(found, head()[0])
    with pytest.raises(InputError, match="nonsense"):
        Components(["nonsense"])(labels, evidence(labels, image))


def test_holes():
    labels = np.zeros((12, 9, 9), np.uint8)
    labels[1:8, 1:8, 1:8] = 1
    labels[3:5, 3:5, 3:5] = 0
    labels[7, 4, 4] = 0  # a dent
    labels[10, 4, 4] = 2
    found = FillHoles()(labels, evidence(labels))
    assert (found[3:5, 3:5, 3:5] == 1).all()
    assert found[7, 4, 4] == 0
    assert np.array_equal(found > 0, ndimage.binary_fill_holes(labels == 1) | (labels == 2))


def test_holes_open_at_the_volumes_end():
    labels = np.zeros((6, 6, 6), np.uint8)
    labels[:4, 1:5, 1:5] = 1
    labels[0:2, 2:4, 2:4] = 0
    assert np.array_equal(FillHoles()(labels, evidence(labels)), labels)


def test_one_after_the_other():
    labels, image = head()
    labels[25:28, 10:12, 4:6] = 1
    found = evidence(labels, image)
    assert np.array_equal(clean([], labels, found), labels)
    expected = FillHoles()(Components()(labels, found), found)
    assert np.array_equal(clean([Components(), FillHoles()], labels, found), expected)
