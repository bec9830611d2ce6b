"""The recorded pose is the truth that registrations are judged by."""

import json

import numpy as np
import pytest
from scipy.ndimage import center_of_mass

from crossmoda.phantom import CaseSimulator
from crossmoda.phantom.head import Head
from crossmoda.phantom.warp import Warp
from crossmoda.registration.metric import SampledMutualInformation
from crossmoda.registration.template import mni152
from crossmoda.registration.volumes import Volume


@pytest.fixture(scope="module")
def undeformed(atlas):
    simulator = CaseSimulator("etz", "hrT2", coarsen=2, deform=False)
    simulator.set_random_state(8)
    return simulator, simulator(2)


def test_pose_is_rigid_and_json(undeformed):
    pose = np.array(json.loads(json.dumps(undeformed[1].facts))["pose"])
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-8)
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)
    assert not np.allclose(pose, np.eye(4), atol=0.1)


def test_pose_brings_the_heads_cochleae_to_the_labels(undeformed):
    simulator, case = undeformed
    pose = np.array(case.facts["pose"])
    index = np.argwhere(case.parts == 3)
    world = index @ case.affine[:3, :3].T + case.affine[:3, 3]
    head = np.linalg.inv(pose) @ np.vstack([world.T, np.ones(len(world))])
    for side, ear in simulator.head.ears.items():
        centre = head[:3, np.sign(head[0]) == side].mean(1)
        np.testing.assert_allclose(centre, ear.to_head(ear.cochlea_centre), atol=1.0)


def test_without_deformation_the_pose_maps_the_template_to_the_scan(undeformed):
    case = undeformed[1]
    scan = Volume(case.image.astype(np.float32), case.affine).shrink(4)
    metric = SampledMutualInformation(mni152().shrink(4), scan)
    pose = np.array(case.facts["pose"])
    shifts = np.tile(np.eye(4), (7, 1, 1))
    shifts[1:4, :3, 3], shifts[4:, :3, 3] = 3 * np.eye(3), -3 * np.eye(3)
    information = metric(pose @ shifts)[0]
    assert information.argmax() == 0


def test_undeformed_warp_is_the_identity_and_draws_as_many_numbers():
    a, b = np.random.RandomState(1), np.random.RandomState(1)
    still = Warp(a, amplitude=0.0, resize=False)
    Warp(b)
    assert a.rand() == b.rand()
    point = np.array([30.0, -20, -40])
    np.testing.assert_allclose(still.inverse(point), point, atol=1e-5)


def test_deformed_and_undeformed_heads_differ(atlas):
    heads = [Head(np.random.RandomState(2), 1, 1, tumour=False, deform=deform) for deform in (True, False)]
    apart = np.linalg.norm(heads[0].ears[1].origin - heads[1].ears[1].origin)
    assert apart > 0.5


def test_coarsened_scan_has_the_same_field_of_view(undeformed):
    case = undeformed[1]
    assert case.image.shape == (120, 120, 40)
    np.testing.assert_allclose(np.linalg.norm(case.affine[:3, :3], axis=0), [1.6, 1.6, 1.5], atol=1e-9)
    assert center_of_mass(case.image)[0] == pytest.approx(60, abs=6)
