import numpy as np
import pytest

from crossmoda.registration.volumes import Volume, foreground

AFFINE = np.array([[0.0, -0.5, 0, 10], [0.4, 0, 0, -20], [0, 0, 1.5, 30], [0, 0, 0, 1]])


def test_shrink_takes_block_means_and_keeps_the_place_in_the_world():
    values = np.random.RandomState(0).rand(9, 8, 4).astype(np.float32)
    small = Volume(values, AFFINE).shrink(1.6)  # spacing 0.4, 0.5, 1.5: blocks of 4 x 3 x 1
    assert small.values.shape == (2, 2, 4)
    np.testing.assert_allclose(small.values[1, 1, 2], values[4:8, 3:6, 2].mean(), rtol=1e-6)
    np.testing.assert_allclose(small.spacing, [1.6, 1.5, 1.5])
    centre = AFFINE @ [5.5, 4, 2, 1]  # of the voxels 4..7, 3..5, 2
    np.testing.assert_allclose(small.affine @ [1, 1, 2, 1], centre, atol=1e-12)


def test_shrunk_mask_is_the_majority():
    mask = np.zeros((4, 2, 2), bool)
    mask[0] = mask[2, 0] = True
    mask[1, 0] = True
    small = Volume(np.zeros(mask.shape, np.float32), np.eye(4), mask).shrink(2)
    np.testing.assert_array_equal(small.mask[:, 0, 0], [True, False])


def test_shrink_leaves_coarse_axes_alone():
    volume = Volume(np.zeros((6, 6, 6), np.float32), np.diag([2.0, 1.0, 5.0, 1]))
    assert volume.shrink(0.9) is volume
    assert volume.shrink(3.0).values.shape == (6, 2, 6)


def test_points_are_the_worlds_and_only_those_in_the_mask():
    mask = np.zeros((3, 4, 5), bool)
    mask[1, 2, 3] = mask[2, 0, 4] = True
    values = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    points, found = Volume(values, AFFINE, mask).points()
    np.testing.assert_allclose(points.T, [(AFFINE @ [1, 2, 3, 1])[:3], (AFFINE @ [2, 0, 4, 1])[:3]])
    np.testing.assert_array_equal(found, [values[1, 2, 3], values[2, 0, 4]])


def test_moved_changes_the_world_only():
    shift = np.eye(4)
    shift[:3, 3] = [1, 2, 3]
    volume = Volume(np.zeros((2, 2, 2), np.float32), AFFINE)
    np.testing.assert_allclose(volume.moved(shift).affine[:3, 3], AFFINE[:3, 3] + [1, 2, 3])
    assert volume.moved(shift).values is volume.values


@pytest.mark.parametrize("scale", [1, 900])
def test_foreground_is_the_ball_in_noisy_air(scale):
    R = np.random.RandomState(1)
    ball = ((np.indices((30, 30, 20)) - np.array([15, 15, 10])[:, None, None, None]) ** 2).sum(0) < 8**2
    mask = foreground(scale * (ball * 100 + np.abs(R.randn(*ball.shape))))
    assert 2 * (mask & ball).sum() / (mask.sum() + ball.sum()) > 0.97


def test_foreground_of_a_flat_image_is_empty():
    assert not foreground(np.full((8, 8, 8), 7.0)).any()
