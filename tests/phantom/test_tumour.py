"""Tumours and cochleae: sizes as in the literature, Koos grades as geometry, cysts and uneven tissue."""

import numpy as np
import pytest
from nibabel.affines import voxel_sizes
from scipy import ndimage

from crossmoda.phantom import CaseSimulator
from crossmoda.phantom.anatomy import BRAINSTEM
from crossmoda.phantom.case import HETEROGENEOUS
from crossmoda.phantom.ear import Ear
from crossmoda.phantom.tumour import Tumour, draw_volume

# Mindermann and Schlegel 2013: mean and standard deviation in mL of 235 patients by Koos grade.
SERIES = {1: (0.25, 0.30), 2: (0.57, 0.54), 3: (1.82, 1.88), 4: (4.17, 2.75)}
SMALLEST, LARGEST = 0.04, 9.8  # mL, crossMoDA 2021
VS = (1, 2)


@pytest.fixture(scope="module")
def tumours() -> dict[int, list[Tumour]]:
    """A hundred tumours of each grade, not yet fitted into a head."""
    R = np.random.RandomState(0)
    ear = Ear(R, 1)
    return {grade: [Tumour(R, ear, grade) for _ in range(100)] for grade in SERIES}


@pytest.mark.parametrize("grade", SERIES)
def test_drawn_volumes_follow_the_series(grade):
    R = np.random.RandomState(grade)
    volumes = np.array([draw_volume(R, grade) for _ in range(2000)])
    mean, sd = SERIES[grade]
    assert volumes.min() >= SMALLEST
    assert volumes.max() <= LARGEST
    assert abs(volumes.mean() - mean) < 0.5 * sd
    assert 0.25 * sd < volumes.std() < 1.1 * sd  # the tails are cut


def test_all_grades_together_have_the_median_of_crossmoda():
    R = np.random.RandomState(1)
    volumes = [draw_volume(R, grade) for grade in SERIES for _ in range(1000)]
    assert 0.7 < np.median(volumes) < 2.0  # crossMoDA 2021: 1.33 mL


@pytest.mark.parametrize("grade", SERIES)
def test_rendered_volume_is_that_of_the_grade(phantom, grade):
    parts, affine = phantom.load(phantom.of_grade("source_training", grade), "parts")
    volume = np.isin(parts, VS).sum() * voxel_sizes(affine).prod() / 1000
    mean, sd = SERIES[grade]
    assert SMALLEST * 0.9 <= volume <= LARGEST * 1.05  # the label's voxels add their own error
    assert abs(volume - mean) <= 2 * sd
    _, pieces = ndimage.label(np.isin(parts, VS), structure=np.ones((3, 3, 3)))
    assert pieces == 1


def test_each_cochlea_has_60_to_120_cubic_millimetres(phantom):
    for case in phantom.cases:
        parts, affine = phantom.load(case, "parts")
        indices = np.argwhere(parts == 3)
        x = (indices @ affine[:3, :3].T + affine[:3, 3])[:, 0]
        voxel = voxel_sizes(affine).prod()
        for side in (x < x.mean(), x >= x.mean()):
            assert 60 <= side.sum() * voxel <= 120


def _distance_to_brainstem(phantom, case) -> float:
    """Smallest distance between the centres of VS and brainstem voxels, mm."""
    parts, affine = phantom.load(case, "parts")
    parcels, _ = phantom.load(case, "parcellation")
    away = ndimage.distance_transform_edt(~np.isin(parcels, BRAINSTEM), sampling=voxel_sizes(affine))
    return float(away[np.isin(parts, VS)].min())


def test_koos_1_stays_in_the_canal(phantom):
    parts, _ = phantom.load(phantom.of_grade("source_training", 1), "parts")
    assert (parts == 1).sum() == 0
    assert (parts == 2).sum() > 0


def test_koos_2_enters_the_cistern_and_spares_the_brainstem(phantom):
    case = phantom.of_grade("source_training", 2)
    parts, affine = phantom.load(case, "parts")
    assert (parts == 1).sum() > 20
    assert (parts == 2).sum() > 20
    assert _distance_to_brainstem(phantom, case) > voxel_sizes(affine)[0]


@pytest.mark.parametrize("grade", [3, 4])
def test_koos_3_and_4_touch_the_brainstem(phantom, grade):
    case = phantom.of_grade("source_training", grade)
    _, affine = phantom.load(case, "parts")
    assert _distance_to_brainstem(phantom, case) <= voxel_sizes(affine).max() + 1e-3


@pytest.mark.parametrize("grade", [3, 4])
def test_koos_4_displaces_the_brainstem_and_3_does_not(phantom, grade):
    """Against the same head without its tumour: what the tumour covers, and what the brainstem lost and gained."""
    case = phantom.of_grade("source_training", grade)
    parts, affine = phantom.load(case, "parts")
    stem = np.isin(phantom.load(case, "parcellation")[0], BRAINSTEM)
    simulator = CaseSimulator(case.site, case.modality, noise=False)
    simulator.set_random_state(case.seed)
    alone = simulator(case.koos, tumour=False)
    assert not np.isin(alone.parts, VS).any()
    before = np.isin(alone.parcels, BRAINSTEM)
    ml = voxel_sizes(affine).prod() / 1000
    covered = (np.isin(parts, VS) & before).sum() * ml
    gained = (stem & ~before).sum() * ml
    if grade == 3:
        assert covered < 0.03
        assert gained < 0.03
    else:
        assert covered > 0.08  # the tumour lies where the brainstem was,
        assert gained > 0.08  # which has moved elsewhere
        assert stem.sum() > 0.9 * before.sum()  # and was not simply cut off


def test_some_tumours_have_cysts(tumours):
    shares = {grade: np.mean([tumour.cystic for tumour in group]) for grade, group in tumours.items()}
    assert shares[1] == 0
    assert 0.11 <= np.mean(list(shares.values())) <= 0.20  # literature
    assert shares[4] > shares[2]


def test_tumours_differ_in_uptake_and_evenness(tumours):
    uptake = np.array([tumour.uptake for group in tumours.values() for tumour in group])
    assert 0.04 < (uptake < 0.7).mean() < 0.25  # weakly enhancing ones
    assert abs(np.median(uptake) - 1) < 0.1
    mixture = {grade: np.mean([tumour.mixture for tumour in group]) for grade, group in tumours.items()}
    assert mixture[1] < mixture[3] < mixture[4]  # large ones are the more heterogeneous
    assert HETEROGENEOUS["etz"] > HETEROGENEOUS["ldn"]
