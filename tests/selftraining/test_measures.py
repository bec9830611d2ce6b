from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from selftraining_cases import THREE, TWO, evidence, head, one_hot

from crossmoda.postprocessing import Classes
from crossmoda.selftraining.evidence import CaseEvidence, merge_parts, to_labels
from crossmoda.selftraining.measures import cliffs_delta, measure_anatomy, measure_contrast
from crossmoda.selftraining.regions import box_around, distances_around


def test_box_is_cut_at_the_volume():
    mask = np.zeros((6, 6, 6), bool)
    mask[1:3, 4, 5] = True
    assert box_around(mask, (2, 1, 1)) == (slice(0, 5), slice(3, 6), slice(4, 6))


def test_distances_are_those_of_the_whole_volume():
    rng = np.random.default_rng(1)
    mask = np.zeros((20, 18, 9), bool)
    mask[8:12, 7:10, 3:5] = rng.random((4, 3, 2)) > 0.5
    spacing = (0.5, 0.7, 1.5)
    box, distance = distances_around(mask, spacing, 2.0)
    whole = ndimage.distance_transform_edt(~mask, sampling=spacing)
    assert np.array_equal(distance, whole[box])
    outside = np.ones(mask.shape, bool)
    outside[box] = False
    assert whole[outside].min() > 2.0


def test_labels_and_confidence_of_broken_probabilities():
    probabilities = one_hot(np.array([[[2, 1, 0, 2]]]), 0.8)
    probabilities[1, 0, 0, 0] = np.nan
    probabilities[0, 0, 0, 3] = np.inf
    found = evidence(np.zeros((1, 1, 4), np.uint8), probabilities=probabilities)
    assert to_labels(probabilities).ravel().tolist() == [0, 1, 0, 0]
    assert found.labels.dtype == np.uint8
    assert found.confidence.ravel().tolist() == pytest.approx([0, 0.8, 0.8, 0])


def test_parts_merge_into_vs():
    assert merge_parts(np.array([0, 1, 2, 3], np.uint8), THREE).tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize("name", ["image", "views"])
def test_other_shapes_are_refused(name):
    wrong = np.zeros((2, 2, 3))
    arrays = {"image": np.zeros((2, 2, 2)), "views": ()} | {name: wrong if name == "image" else (wrong,)}
    with pytest.raises(ValueError, match=r"one: .*\(2, 2, 3\)"):
        CaseEvidence("one", np.zeros((3, 2, 2, 2)), affine=np.eye(4), **arrays)


def test_anatomy_by_hand():
    # Voxels of 0.5 x 1 x 2 mm: 1 mm3 each.
    labels = np.zeros((40, 20, 10), np.uint8)
    labels[10:14, 5:9, 2:4] = 1
    labels[20:22, 5:9, 2:4] = 2
    labels[36:38, 5:9, 2:4] = 2
    labels[30, 15, 8] = 2  # a speck: 1 of 16 voxels
    found = measure_anatomy(labels, np.diag([0.5, 1, 2, 1]), TWO)
    assert found == {
        "volume_VS": 32,
        "components_VS": 1,
        "volume_cochlea": 33,
        "components_cochlea": 2,
        "distance_VS_cochlea": 3.5,  # seven voxels of 0.5 mm
        "distance_cochleae": 8.0,
    }


def test_anatomy_does_not_depend_on_the_grid_of_the_array():
    labels, _ = head()
    affine = np.array([[0.0, -0.8, 0, 5], [0.6, 0, 0.1, -7], [0, 0, 1.5, 3], [0, 0, 0, 1]])
    # Mirrored and transposed arrays with the affines that say so are the same anatomy.
    turned = labels[::-1].transpose(2, 0, 1).copy()
    step = affine.copy()
    step[:3, 3] = affine[:3, 3] + affine[:3, 0] * (len(labels) - 1)
    step[:3, :3] = np.stack([affine[:3, 2], -affine[:3, 0], affine[:3, 1]], axis=1)
    first, second = (measure_anatomy(*pair, TWO) for pair in ((labels, affine), (turned, step)))
    assert first == pytest.approx(second)


def test_anatomy_of_what_is_missing():
    labels = np.zeros((12, 12, 12), np.uint8)
    empty = measure_anatomy(labels, np.eye(4), TWO)
    assert empty["volume_VS"] == empty["components_cochlea"] == 0
    assert empty["distance_VS_cochlea"] is None
    labels[2:4, 2:4, 2:4] = 2
    one_side = measure_anatomy(labels, np.eye(4), TWO)
    assert one_side["components_cochlea"] == 1
    assert one_side["distance_cochleae"] is None
    assert one_side["distance_VS_cochlea"] is None


def test_parts_are_one_tumour():
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[2:4, 2:4, 2:4] = 1
    labels[4:6, 2:4, 2:4] = 2
    labels[9:11, 2:4, 2:4] = 3
    found = measure_anatomy(labels, np.eye(4), THREE)
    assert (found["volume_VS"], found["components_VS"], found["distance_VS_cochlea"]) == (16, 1, 4)


def test_cliffs_delta_counts_pairs():
    rng = np.random.default_rng(2)
    first, second = rng.integers(0, 8, 31).astype(float), rng.integers(2, 9, 17).astype(float)
    pairs = np.sign(first[:, None] - second[None])
    assert cliffs_delta(first, second) == pytest.approx(pairs.mean())
    assert cliffs_delta(np.array([2.0, 3]), np.array([1.0])) == 1
    assert cliffs_delta(np.array([1.0]), np.array([1.0])) == 0
    assert cliffs_delta(np.array([]), np.array([1.0])) is None


def test_contrast_by_the_whole_volume():
    labels, image = head()
    spacing = (1.0, 1.0, 1.5)
    found = measure_contrast(image, labels, spacing, TWO)
    to_cochlea, to_vs = (ndimage.distance_transform_edt(labels != label, sampling=spacing) for label in (2, 1))
    ring = image[(to_cochlea > 0) & (to_cochlea <= 2) & (labels == 0)].astype(float)
    pairs = np.sign(image[labels == 2].astype(float)[:, None] - ring[None])
    assert found["contrast_cochlea"] == pytest.approx(pairs.mean())
    expected = image[labels == 1].astype(float).std() / image[to_vs <= 6].astype(float).std()
    assert found["heterogeneity_VS"] == pytest.approx(expected)
    pairs = np.sign(image[labels == 1].astype(float)[:, None] - image[labels == 2].astype(float)[None])
    assert found["brightness_VS"] == pytest.approx(pairs.mean())


@pytest.mark.parametrize(("scale", "offset"), [(3.0, 0.0), (0.001, 0.0), (2.0, 500.0)])
def test_contrast_has_no_scale(scale, offset):
    labels, image = head()
    first = measure_contrast(image.astype(float), labels, (1, 1, 1), TWO)
    assert measure_contrast(image.astype(float) * scale + offset, labels, (1, 1, 1), TWO) == pytest.approx(first)


def test_contrast_of_mirrored_labels_is_worse():
    _, image = head()
    right, wrong = (measure_contrast(image, head(mirrored)[0], (1, 1, 1), TWO) for mirrored in (False, True))
    assert right["contrast_cochlea"] > 0.95
    assert abs(wrong["contrast_cochlea"]) < 0.5
    assert right["brightness_VS"] < -0.95
    assert wrong["brightness_VS"] > 0.5


def test_uneven_places_are_no_tumour():
    labels, image = head()
    assert measure_contrast(image, labels, (1, 1, 1), TWO)["heterogeneity_VS"] < 0.2
    uneven = np.where(labels == 1, 0, labels)
    uneven[10:15, 10:14, 4:8] = 1  # bone, brain and fluid
    assert measure_contrast(image, uneven, (1, 1, 1), TWO)["heterogeneity_VS"] > 0.5


def test_contrast_that_can_not_be_measured():
    labels, image = head()
    missing = {"contrast_cochlea": None, "heterogeneity_VS": None, "brightness_VS": None}
    assert measure_contrast(image, np.zeros_like(labels), (1, 1, 1), TWO) == missing
    assert measure_contrast(np.full_like(image, np.nan), labels, (1, 1, 1), TWO) == missing
    flat = measure_contrast(np.ones_like(image), labels, (1, 1, 1), TWO)
    assert flat == {"contrast_cochlea": 0, "heterogeneity_VS": None, "brightness_VS": 0}
    everything = measure_contrast(image, np.full_like(labels, 2), (1, 1, 1), TWO)
    assert everything == missing


def test_contrast_passes_over_broken_voxels():
    labels, image = head()
    whole = measure_contrast(image, labels, (1, 1, 1), TWO)
    image[15, 11, 5] = np.nan
    image[7, 11, 6] = np.inf
    broken = measure_contrast(image, labels, (1, 1, 1), TWO)
    assert broken == pytest.approx(whole, abs=0.02)


def test_contrast_of_parts_is_that_of_the_tumour():
    labels, image = head()
    three = np.where(labels == 2, 3, labels).astype(np.uint8)
    three[16:19][labels[16:19] == 1] = 2
    expected = measure_contrast(image, labels, (1, 1, 1), TWO)
    assert measure_contrast(image, three, (1, 1, 1), Classes((1, 2), 3)) == expected
