"""Jittered masks: as far from the true ones as asked for, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from crossmoda.koos.jitter import JitterMasks

SPACING = (0.8, 0.8, 1.5)
AFFINE = np.diag([*SPACING, 1.0])


def masks() -> dict[str, np.ndarray]:
    places = np.indices((60, 50, 30)).transpose(1, 2, 3, 0) * np.array(SPACING)
    tumour = np.linalg.norm(places - np.array([16, 20, 22]), axis=-1) <= 8
    return {
        "VS": tumour,
        "cochlea": np.linalg.norm(places - np.array([4, 20, 22]), axis=-1) <= 2,
        "brainstem": (places[..., 0] > 24) & ~tumour,
        "extra_meatal": tumour & (places[..., 0] > 12),
    }


def seeded(**settings: float) -> JitterMasks:
    return JitterMasks(**settings).set_random_state(seed=0)


def test_offset_grows_or_shrinks_the_tumour_by_its_distance() -> None:
    places = np.indices((56, 56, 56)).transpose(1, 2, 3, 0) * 0.5
    tumour = np.linalg.norm(places - 14, axis=-1) <= 8
    volumes = []
    for seed in range(8):
        jitter = JitterMasks(offset_mm=2.0, noise_mm=0.0)
        jitter.set_random_state(seed=seed)
        offset = np.random.RandomState(seed).uniform(-2, 2)
        volumes.append(jitter({"VS": tumour}, np.diag([0.5, 0.5, 0.5, 1]))["VS"].sum() * 0.5**3)
        radius = (volumes[-1] * 3 / 4 / np.pi) ** (1 / 3)
        assert radius == pytest.approx(8 + offset, abs=0.3)  # a voxel is 0.5 mm
    assert max(volumes) > 1.2 * min(volumes)


def test_structures_never_overlap_and_other_masks_stay() -> None:
    before = masks()
    found = seeded()(before, AFFINE)
    assert not (found["VS"] & found["brainstem"]).any()
    assert not (found["extra_meatal"] & ~found["VS"]).any()
    assert found["extra_meatal"].sum() / found["VS"].sum() == pytest.approx(
        before["extra_meatal"].sum() / before["VS"].sum(), abs=0.1
    )
    assert np.array_equal(found["cochlea"], before["cochlea"])
    assert (found["VS"] != before["VS"]).any()
    assert (found["brainstem"] != before["brainstem"]).any()
    assert np.array_equal(before["VS"], masks()["VS"])  # the input is not changed


def test_the_same_seed_gives_the_same_masks() -> None:
    first, again = seeded()(masks(), AFFINE), seeded()(masks(), AFFINE)
    assert all(np.array_equal(first[name], again[name]) for name in first)


def test_no_offset_and_no_noise_change_nothing() -> None:
    found = seeded(offset_mm=0.0, noise_mm=0.0)(masks(), AFFINE)
    assert all(np.array_equal(found[name], mask) for name, mask in masks().items())


def test_a_tumour_does_not_vanish() -> None:
    small = masks()
    small["VS"] = np.zeros_like(small["VS"])
    small["VS"][20, 25, 15] = True
    small["extra_meatal"] = small["VS"]
    jitter = JitterMasks(offset_mm=5.0, noise_mm=0.0)
    for seed in range(4):
        jitter.set_random_state(seed=seed)
        assert jitter(small, AFFINE)["VS"].any()
