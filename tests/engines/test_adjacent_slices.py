"""Volumes through a 2.5D network: neighbours, ends, batches, the mean of three predictions."""

import pytest
import torch

from crossmoda.engines import AdjacentSlicesInferer


def volume(batch=1, depth=5):
    """Every voxel says its volume and slice: 10 b + z."""
    z = torch.arange(depth).float()
    return torch.stack([10 * b + z.expand(1, 4, 3, depth) for b in range(batch)])


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_identity_gives_the_volume_back(average, batch_size):
    x = volume(2)
    inferer = AdjacentSlicesInferer(3, batch_size, average)
    assert torch.equal(inferer(x, lambda windows: windows), x)


def test_the_network_sees_each_slice_with_its_neighbours():
    seen = []

    def network(windows):
        seen.append(windows)
        return windows

    AdjacentSlicesInferer(3, 2)(volume(), network)
    assert [len(windows) for windows in seen] == [2, 2, 1]
    assert torch.cat(seen)[:, :, 0, 0].tolist() == [[-1, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, -1]]


def test_average_is_the_mean_of_all_predictions_of_a_slice():
    def network(windows):
        return windows + torch.tensor([100.0, 200.0, 600.0]).view(1, 3, 1, 1)

    result = AdjacentSlicesInferer(3, average=True)(volume(depth=4), network)
    # A slice is the channel above (600) of the window below it, the middle (200), the channel below (100) of the next.
    expected = [(100 + 200) / 2, 1 + 300, 2 + 300, 3 + (600 + 200) / 2]
    assert result[0, 0, 0, 0].tolist() == pytest.approx(expected)
    assert AdjacentSlicesInferer(3)(volume(depth=4), network)[0, 0, 0, 0].tolist() == [200, 201, 202, 203]


def test_average_lowers_flicker_of_single_passes():
    torch.manual_seed(0)
    truth = torch.rand(1, 1, 6, 6, 1).expand(1, 1, 6, 6, 12)

    def network(windows):
        return windows + torch.randn(len(windows), 1, 1, 1) * 0.1

    def flicker(average):
        torch.manual_seed(1)
        result = AdjacentSlicesInferer(3, average=average)(truth, network)
        return float(result.mean((0, 1, 2, 3)).diff().abs().mean())

    assert flicker(average=True) < 0.7 * flicker(average=False)


def test_a_volume_of_one_slice_and_an_even_number_of_slices():
    assert AdjacentSlicesInferer(5, average=True)(volume(depth=1), lambda x: x).shape == (1, 1, 4, 3, 1)
    with pytest.raises(ValueError, match="odd"):
        AdjacentSlicesInferer(2)
