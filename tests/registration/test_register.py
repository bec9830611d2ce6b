"""Known poses come back through both backends; scans that cannot be registered are flagged and left where they are."""

import json
import sys

import numpy as np
import pytest

from crossmoda.registration import Limits, Registration, register
from crossmoda.registration.search import rigid
from crossmoda.registration.template import mni152

from .conftest import Scan, make_scan

NEAR = [6, -3, 4, 8, -12, 5]  # degrees, mm


@pytest.fixture(scope="module")
def slab() -> Scan:
    return make_scan(NEAR, slab=True)


def run(values: np.ndarray, affine: np.ndarray, **settings) -> Registration:
    template = mni152()
    return register(values, affine, template.values, template.affine, template.mask, **settings)


@pytest.fixture
def known_start(slab, monkeypatch) -> None:
    """The search, seconds of each registration, is tested elsewhere; this one starts 3 degrees and 4 mm away."""
    away = rigid(np.array([[3.0, 0, 0, 0, 4, 0]]), np.array([0.0, -20, -30]))[0]
    module = sys.modules["crossmoda.registration.register"]  # the package hands on its function of the same name
    monkeypatch.setattr(module, "search_pose", lambda fixed, moving: np.linalg.inv(slab.matrix) @ away)


@pytest.fixture(scope="module")
def by_elastix(slab) -> Registration:
    return run(slab.values, slab.affine)


def test_elastix_recovers_a_known_pose(slab, by_elastix):
    assert by_elastix.failure == ""
    assert slab.error(by_elastix.matrix) < 0.5
    assert slab.error(np.eye(4)) > 10
    assert by_elastix.information_after > 2 * by_elastix.information_before
    assert by_elastix.rotation_degrees == pytest.approx(np.linalg.norm(NEAR[:3]), abs=1)


def test_itk_agrees_with_elastix(slab, by_elastix, known_start):
    other = run(slab.values, slab.affine, backend="itk")
    assert other.failure == ""
    moved = Scan(slab.values, slab.affine, np.array(by_elastix.matrix))
    assert moved.error(other.matrix) < 0.5  # mm between the two at the cochleae
    assert slab.error(other.matrix) < 0.5


def test_same_seed_same_matrix_whatever_itk_did_before(slab, known_start):
    first = run(slab.values, slab.affine)
    run(slab.values, slab.affine, backend="itk", seed=3)
    assert run(slab.values, slab.affine).matrix == first.matrix


def test_order_of_the_voxels_does_not_matter(slab, by_elastix, known_start):
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = slab.values.shape[0] - 1
    mirrored = run(slab.values[::-1].transpose(2, 0, 1), (slab.affine @ flip)[:, [2, 0, 1, 3]])
    assert slab.error(mirrored.matrix) < 0.5


def test_result_is_json_and_rigid(by_elastix):
    assert Registration(**json.loads(json.dumps(by_elastix.to_dict()))) == by_elastix
    linear = np.array(by_elastix.matrix)[:3, :3]
    np.testing.assert_allclose(linear @ linear.T, np.eye(3), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["mi", "ncc"])
def test_affine_recovers_pose_and_size_on_an_atlas_scan(slab, metric):
    atlas, size = make_scan([0] * 6, slab=True, seed=5), (1.06, 0.95, 1.04)
    scan = make_scan([6, -3, 4, 8, -12, 5], slab=False, seed=6, scale=size)
    found = register(scan.values, scan.affine, atlas.values, atlas.affine, kind="affine", metric=metric, bins=64)
    assert found.failure == ""
    assert scan.error(found.matrix) < 1.0
    np.testing.assert_allclose(
        np.sort(np.linalg.svd(np.array(found.matrix)[:3, :3])[1]), np.sort(1 / np.array(size)), atol=0.02
    )


def test_pure_noise_is_flagged(slab):
    noise = np.random.RandomState(0).rayleigh(50, slab.values.shape)
    found = run(noise, slab.affine)
    assert "too little in common" in found.failure
    assert found.matrix == np.eye(4).tolist()
    assert found.rejected != []


@pytest.mark.slow
def test_an_outline_without_anatomy_is_flagged():
    index = np.indices((60, 70, 60)) - np.array([30, 35, 30])[:, None, None, None]
    outline = ((index / np.array([24, 29, 22])[:, None, None, None]) ** 2).sum(0) < 1
    values = 20 + 100 * outline + np.random.RandomState(1).randn(*outline.shape)
    found = run(values, np.diag([3.0, 3, 3, 1]))
    assert "no clear optimum" in found.failure
    assert found.matrix == np.eye(4).tolist()


@pytest.mark.slow
def test_an_upside_down_file_is_flagged(slab):
    found = run(np.ascontiguousarray(slab.values[:, :, ::-1]), slab.affine)  # mirrored: no rigid map undoes it
    assert found.failure != ""
    assert found.matrix == np.eye(4).tolist()


def test_little_overlap_is_flagged():
    whole = make_scan(NEAR, slab=False)
    found = run(whole.values[:, :, :4], whole.affine)  # 8 mm through the neck
    assert found.failure != ""
    assert found.matrix == np.eye(4).tolist()


def test_rotation_beyond_the_limit_is_flagged(slab, known_start):
    found = run(slab.values, slab.affine, limits=Limits(rotation=3))
    assert "rotation of 8 degrees" in found.failure
    assert found.matrix == np.eye(4).tolist()
    assert slab.error(found.rejected) < 0.5


@pytest.mark.parametrize(
    ("change", "words"),
    [(lambda v: np.full_like(v, 7), "blank"), (lambda v: np.where(v > 200, np.nan, v), "NaN")],
)
def test_a_scan_without_use_is_flagged(slab, change, words):
    found = run(change(slab.values), slab.affine)
    assert words in found.failure
    assert found.matrix == np.eye(4).tolist()


def test_blank_fixed_image_is_flagged(slab):
    found = register(slab.values, slab.affine, np.zeros((20, 20, 20)), np.eye(4))
    assert found.failure == "the fixed image is blank"


def test_search_alone_is_near_and_rigid_only(slab):
    found = run(slab.values, slab.affine, backend="search")
    assert slab.error(found.matrix) < 3  # mm
    assert found.backend == "search"
    with pytest.raises(ValueError, match="affine"):
        run(slab.values, slab.affine, backend="search", kind="affine")


@pytest.mark.parametrize("wrong", [{"kind": "bspline"}, {"metric": "ssd"}, {"backend": "ants"}])
def test_unknown_settings_are_refused(slab, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong.values()))):
        run(slab.values, slab.affine, **wrong)
