import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from crossmoda.registration.metric import SampledMutualInformation
from crossmoda.registration.volumes import Volume


def volume(values: np.ndarray, affine: np.ndarray | None = None, mask: np.ndarray | None = None) -> Volume:
    return Volume(values.astype(np.float32), np.eye(4) if affine is None else affine, mask)


@pytest.fixture
def related() -> tuple[np.ndarray, np.ndarray]:
    """Two images of few levels, related but not one to one."""
    R = np.random.RandomState(0)
    fixed = R.randint(0, 6, (14, 12, 10))
    moving = np.where(R.rand(*fixed.shape) < 0.7, (fixed * 3) % 7, R.randint(0, 7, fixed.shape))
    return fixed, moving


def bias(a: np.ndarray, b: np.ndarray) -> float:
    return (len(np.unique(a)) - 1) * (len(np.unique(b)) - 1) / (2 * a.size)


def test_agrees_with_scikit_learn_less_the_bias(related):
    fixed, moving = related
    information, overlap = SampledMutualInformation(volume(fixed), volume(moving))(np.eye(4)[None])
    expected = mutual_info_score(fixed.ravel(), moving.ravel()) - bias(fixed, moving)
    assert information[0] == pytest.approx(expected, abs=1e-9)
    assert expected > 0.3
    assert overlap[0] == 1


def test_many_poses_agree_with_one_at_a_time(related):
    metric = SampledMutualInformation(*map(volume, related))
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[1, 0, 3], poses[2, 2, 3] = 3, -4
    together = metric(poses)
    for n in range(3):
        alone = metric(poses[n : n + 1])
        np.testing.assert_allclose([together[0][n], together[1][n]], [alone[0][0], alone[1][0]])


def test_a_shift_by_whole_voxels_compares_the_shifted_parts(related):
    fixed, moving = related
    pose = np.eye(4)[None].copy()
    pose[0, :3, 3] = [4, 0, -3]  # the fixed point p is looked up at p + shift
    a, b = fixed[:-4, :, 3:], moving[4:, :, :-3]
    information, overlap = SampledMutualInformation(volume(fixed), volume(moving))(pose)
    assert overlap[0] == pytest.approx(a.size / fixed.size)
    assert information[0] == pytest.approx(mutual_info_score(a.ravel(), b.ravel()) - bias(a, b), abs=1e-9)


def test_affines_and_mask_are_respected(related):
    fixed, moving = related
    affine = np.array([[0, 2.0, 0, 5], [-1.5, 0, 0, 7], [0, 0, 3, -9], [0, 0, 0, 1]])
    mask = np.zeros(fixed.shape, bool)
    mask[2:9, 3:, :8] = True
    metric = SampledMutualInformation(volume(fixed, affine, mask), volume(moving, affine))
    expected = mutual_info_score(fixed[mask], moving[mask]) - bias(fixed[mask], moving[mask])
    assert metric(np.eye(4)[None])[0][0] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("bins", [10, 32])
def test_unrelated_images_score_zero_whatever_the_overlap(bins):
    R = np.random.RandomState(2)
    metric = SampledMutualInformation(volume(R.rand(24, 24, 24)), volume(R.rand(24, 24, 24)), bins)
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[1, 0, 3], poses[2, 0, 3] = 10, 16
    information, overlap = metric(poses)
    np.testing.assert_allclose(overlap, [1, 14 / 24, 8 / 24], atol=1e-6)
    assert np.abs(information).max() < 0.02 if bins == 10 else 0.1


def test_nothing_in_common_scores_nothing(related):
    pose = np.eye(4)[None].copy()
    pose[0, 0, 3] = 500
    information, overlap = SampledMutualInformation(*map(volume, related))(pose)
    assert overlap[0] == 0
    assert information[0] == 0


def test_a_flat_image_has_no_information(related):
    metric = SampledMutualInformation(volume(related[0]), volume(np.full(related[0].shape, 3.0)))
    assert metric(np.eye(4)[None])[0][0] == 0


def test_direction_of_contrast_does_not_matter():
    R = np.random.RandomState(3)
    image = R.rand(12, 12, 12) + 0.2
    same = SampledMutualInformation(volume(image), volume(image))(np.eye(4)[None])[0][0]
    reversed_ = SampledMutualInformation(volume(image), volume(300 - 100 * image))(np.eye(4)[None])[0][0]
    other = SampledMutualInformation(volume(image), volume(R.permutation(image)))(np.eye(4)[None])[0][0]
    assert same == pytest.approx(reversed_, rel=0.15)  # the bins are not the same ones
    assert other < 0.3 * same
