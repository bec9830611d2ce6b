import numpy as np
from scipy.spatial.transform import Rotation

from crossmoda.registration.search import rigid, search_pose
from crossmoda.registration.template import mni152
from crossmoda.registration.volumes import Volume

from .conftest import make_scan


def test_rigid_agrees_with_scipy():
    R = np.random.RandomState(0)
    parameters = np.vstack([30 * R.randn(5, 6), np.zeros(6)])
    centre = np.array([3.0, -20, 8])
    maps = rigid(parameters, centre)
    np.testing.assert_allclose(
        maps[:, :3, :3], Rotation.from_rotvec(parameters[:, :3], degrees=True).as_matrix(), atol=1e-12
    )
    np.testing.assert_allclose(maps @ [*centre, 1], [[*(centre + p[3:]), 1] for p in parameters], atol=1e-12)


def test_search_finds_a_slab_in_strange_scanner_coordinates():
    scan = make_scan([14, -6, 9, 10, -15, 8], slab=True, table=(70, -95, 130))
    pose = search_pose(mni152(), Volume(scan.values, scan.affine))
    assert scan.error(np.eye(4)) > 150
    assert scan.error(np.linalg.inv(pose)) < 3


def test_search_uses_no_random_numbers():
    scan = make_scan([5, 5, 5, 10, 0, 0], slab=True)
    moving = Volume(scan.values, scan.affine)
    np.testing.assert_array_equal(search_pose(mni152(), moving), search_pose(mni152(), moving))
