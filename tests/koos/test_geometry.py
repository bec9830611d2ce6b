"""Features of label maps against boxes and balls whose volume, distance and contact are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from crossmoda.koos.geometry import (
    FEATURES,
    GeometrySettings,
    ear_centres,
    geometric_features,
    mask_surface,
    masks_by_name,
    nearest_distance,
    surface_distances,
)

SHAPE = (100, 60, 50)
AFFINE = np.diag([1.0, 1.0, 1.0, 1.0])
AFFINE[:3, 3] = [-50, -30, -25]  # the midplane x = 0 is voxel 50


def box(low: tuple[int, int, int], high: tuple[int, int, int], shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Voxels from low to before high."""
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*ends) for ends in zip(low, high, strict=True))] = True
    return mask


def ball(centre: tuple[float, ...], radius: float, shape: tuple[int, ...] = SHAPE, spacing: float = 1.0) -> np.ndarray:
    places = np.indices(shape).transpose(1, 2, 3, 0) * spacing
    return np.linalg.norm(places - np.array(centre), axis=-1) <= radius


def a_case() -> dict[str, np.ndarray]:
    """A tumour on the right side (x < 0) as a bar from the ear to the brainstem, which stands around the midplane."""
    return {
        "VS": box((20, 26, 21), (36, 34, 29)),  # 16 x 8 x 8 mm
        "cochlea": box((10, 28, 23), (14, 32, 27)) | box((87, 28, 23), (91, 32, 27)),  # centres at x = -38.5 and 38.5
        "brainstem": box((39, 16, 0), (62, 44, 50)),  # 3 mm beyond the tumour; middle at x = 0
        "cerebellum": box((20, 0, 0), (80, 14, 50)),
    }


def test_boxes_have_the_features_worked_out_by_hand() -> None:
    found = geometric_features(a_case(), AFFINE)
    assert list(found) == list(FEATURES)
    assert found["volume_ml"] == pytest.approx(16 * 8 * 8 / 1000)
    # Ear at voxel 11.5, canal 14 mm along x: outside lie the voxels from 26 to 35 of those from 20 to 35.
    assert found["extra_meatal_share"] == pytest.approx(10 / 16)
    assert found["extra_meatal_extent_mm"] == pytest.approx(35 - 25.5)
    # Between the faces at 35.5 and 38.5.
    assert found["brainstem_distance_mm"] == pytest.approx(3.0)
    assert found["brainstem_contact_mm2"] == 0
    assert found["brainstem_dent_mm"] == 0
    assert found["cerebellum_distance_mm"] == pytest.approx(12.0)  # between 13.5 and 25.5
    assert found["brainstem_shift_mm"] == pytest.approx(0.0, abs=1e-9)


def test_contact_of_boxes_is_the_face_and_the_rim_beside_it() -> None:
    masks = a_case() | {"brainstem": box((36, 16, 0), (62, 44, 50))}
    found = geometric_features(masks, AFFINE, GeometrySettings(contact_mm=0.4))
    assert found["brainstem_distance_mm"] == pytest.approx(0, abs=1e-6)
    # The face of 8 x 8 mm without its edges, which marching cubes rounds off.
    assert 7 * 7 <= found["brainstem_contact_mm2"] <= 8 * 8
    assert found["brainstem_dent_mm"] == pytest.approx(0, abs=0.15)
    wide = geometric_features(masks, AFFINE, GeometrySettings(contact_mm=2.1))
    # With 2 mm of the four sides: 8 x 8 + 4 x 8 x 2, less at the rounded edges.
    assert wide["brainstem_contact_mm2"] == pytest.approx(64 + 64, rel=0.12)


def test_a_balls_contact_is_a_cap() -> None:
    spacing, radius = 0.5, 10.0
    affine = np.diag([spacing] * 3 + [1.0])
    shape = (60, 60, 70)
    tumour = ball((15, 15, 12), radius, shape, spacing)
    plane = box((0, 0, 45), (60, 60, 70), shape)  # its face is at 22.25 mm, the ball's lowest point at 22
    found = geometric_features({"VS": tumour, "brainstem": plane}, affine, GeometrySettings(contact_mm=3.0))
    height = 3.0 - 0.25
    assert found["volume_ml"] == pytest.approx(4 / 3 * math.pi * radius**3 / 1000, rel=0.01)
    # Area 2 pi r h of a cap; marching cubes on a mask has steps.
    assert found["brainstem_contact_mm2"] == pytest.approx(2 * math.pi * radius * height, rel=0.15)
    # Archimedes: area is uniform along the axis, so that the heights' standard deviation is h / sqrt(12).
    assert found["brainstem_dent_mm"] == pytest.approx(height / math.sqrt(12), rel=0.15)
    # The cap of 10 mm2 has the height 10 / (2 pi r).
    assert found["brainstem_distance_mm"] == pytest.approx(0.25 + 10 / (2 * math.pi * radius), abs=0.15)


def test_surface_area_and_distances_equal_loops() -> None:
    affine = np.array([[0.0, 0.8, 0, 3], [-0.8, 0, 0, 5], [0, 0, 1.5, -7], [0, 0, 0, 1]])  # turned and anisotropic
    surface = mask_surface(box((2, 3, 4), (12, 9, 8), (20, 20, 20)), affine)
    edges = np.array([10 * 0.8, 6 * 0.8, 4 * 1.5])
    area = 2 * (edges[0] * edges[1] + edges[0] * edges[2] + edges[1] * edges[2])
    assert 0.9 * area < surface.areas.sum() < area  # the edges are rounded off
    other = mask_surface(box((15, 3, 4), (18, 9, 8), (20, 20, 20)), affine)
    places = np.concatenate([other.centres, other.vertices])
    expected = [min(np.linalg.norm(place - centre) for place in places) for centre in surface.centres[:20]]
    assert surface_distances(surface, other)[:20] == pytest.approx(expected)
    assert surface_distances(surface, other).min() == pytest.approx(3 * 0.8, abs=0.01)


def test_a_stray_piece_does_not_make_contact() -> None:
    assert nearest_distance(np.array([5.0, 0.1, 2.0]), np.array([20.0, 3.0, 8.0]), 10.0) == 2.0
    assert nearest_distance(np.array([5.0, 1.0]), np.array([2.0, 2.0]), 10.0) == 5.0  # a smaller surface counts whole


def test_a_pushed_brainstem_is_a_shift() -> None:
    masks = a_case()
    masks["brainstem"] = np.roll(masks["brainstem"], 4, axis=0)
    assert geometric_features(masks, AFFINE)["brainstem_shift_mm"] == pytest.approx(4.0)
    mirrored = {name: mask[::-1] for name, mask in masks.items()}  # the tumour on the other side
    flipped = AFFINE.copy()
    flipped[0, 3] = -49
    assert geometric_features(mirrored, flipped)["brainstem_shift_mm"] == pytest.approx(4.0)


@pytest.mark.parametrize("turned", [False, True])
def test_features_do_not_depend_on_how_the_voxels_are_stored(turned: bool) -> None:
    masks = a_case()
    before = geometric_features(masks, AFFINE)
    if turned:
        masks = {name: mask.transpose(2, 0, 1) for name, mask in masks.items()}
        affine = AFFINE[:, [2, 0, 1, 3]]
    else:
        masks = {name: mask[:, ::-1, ::-1] for name, mask in masks.items()}
        affine = AFFINE @ np.array([[1, 0, 0, 0], [0, -1, 0, 59], [0, 0, -1, 49], [0, 0, 0, 1.0]])
    assert geometric_features(masks, affine) == pytest.approx(before, abs=1e-3)


def test_missing_structures_leave_gaps_and_no_error() -> None:
    masks = a_case()
    without = geometric_features({"VS": masks["VS"]}, AFFINE)
    assert [name for name, value in without.items() if not math.isnan(value)] == ["volume_ml"]
    del masks["cerebellum"]
    masks["cochlea"] = box((87, 28, 23), (91, 32, 27))  # the other side's alone
    found = geometric_features(masks, AFFINE)
    gaps = {name for name, value in found.items() if math.isnan(value)}
    assert gaps == {
        "extra_meatal_share",
        "extra_meatal_extent_mm",
        "cerebellum_distance_mm",
        "cerebellum_contact_mm2",
        "brainstem_shift_mm",
    }
    few = geometric_features(a_case() | {"brainstem": box((50, 30, 20), (54, 34, 24))}, AFFINE)  # 0.064 mL
    assert math.isnan(few["brainstem_distance_mm"])
    assert few["extra_meatal_share"] == pytest.approx(10 / 16)  # the other ear shows the way
    with pytest.raises(ValueError, match="no tumour"):
        geometric_features(a_case() | {"VS": np.zeros(SHAPE, bool)}, AFFINE)


def test_parts_of_the_label_go_before_the_canals_length() -> None:
    found = geometric_features(a_case() | {"extra_meatal": box((30, 26, 21), (36, 34, 29))}, AFFINE)
    assert found["extra_meatal_share"] == pytest.approx(6 / 16)
    assert found["extra_meatal_extent_mm"] == pytest.approx(9.5)


def test_ears_are_told_apart_by_the_gap_between_them() -> None:
    tumour = np.array([[-20.0, 0, 0], [-25.0, 0, 0]])
    left, right = np.array([[38.0, 1, 2]] * 3), np.array([[-37.0, 3, 4]] * 2)
    same, other = ear_centres(np.concatenate([left, right]), tumour)
    assert same.tolist() == [-37, 3, 4]
    assert other.tolist() == [38, 1, 2]
    assert ear_centres(right, tumour)[1] is None
    assert ear_centres(left, tumour)[0] is None
    assert ear_centres(np.empty((0, 3)), tumour) == (None, None)


def test_masks_come_from_two_files_and_the_tumour_goes_first() -> None:
    label, parcels = np.zeros((12, 4, 4), int), np.zeros((12, 4, 4), int)
    label[2:5, 1, 1], label[8, 1, 1], label[0, 0, 0] = 1, 1, 2
    parcels[4:8, 1, 1], parcels[11, 3, 3] = 5, 5
    classes = {"VS": ("mask", [1]), "cochlea": ("mask", [2]), "brainstem": ("parcellation", [5, 6])}
    masks = masks_by_name({"mask": label, "parcellation": parcels}, classes)
    assert np.argwhere(masks["VS"])[:, 0].tolist() == [2, 3, 4]  # the piece at 8 is smaller
    assert np.argwhere(masks["brainstem"])[:, 0].tolist() == [5, 6, 7]
    assert masks["cochlea"].sum() == 1
    assert set(masks_by_name({"mask": label}, classes)) == {"VS", "cochlea"}
