import pytest
import torch
from monai.inferers import SimpleInferer, SlidingWindowInferer

from crossmoda.engines import MirrorInferer


@pytest.fixture
def network():
    torch.manual_seed(0)
    return torch.nn.Conv3d(1, 2, 3, padding=1)


def test_mean_over_all_mirror_images(network):
    x = torch.rand(1, 1, 5, 6, 7)
    out = MirrorInferer(SimpleInferer(), axes=(0, 2))(x, network)
    expected = (
        network(x)
        + network(x.flip(2)).flip(2)
        + network(x.flip(4)).flip(4)
        + network(x.flip(2).flip(4)).flip(4).flip(2)
    ) / 4
    torch.testing.assert_close(out, expected)


def test_each_window_is_mirrored_in_its_place(network):
    """Windows of 4 on 9 voxels do not lie as their mirror images do."""
    x = torch.rand(1, 1, 9, 6, 7)
    windows = SlidingWindowInferer((4, 6, 7), overlap=0.5)
    expected = windows(x, lambda part: (network(part) + network(part.flip(2)).flip(2)) / 2)
    torch.testing.assert_close(MirrorInferer(windows, axes=(0,))(x, network), expected)


def test_the_output_mirrors_with_the_image(network):
    inferer = MirrorInferer(SlidingWindowInferer((4, 6, 7), overlap=0.5), axes=(0,))
    x = torch.rand(1, 1, 8, 6, 7)
    torch.testing.assert_close(inferer(x.flip(2), network), inferer(x, network).flip(2))
    plain = SlidingWindowInferer((4, 6, 7), overlap=0.5)
    assert not torch.allclose(plain(x.flip(2), network), plain(x, network).flip(2), atol=1e-3)


def test_no_axes_changes_nothing(network):
    x = torch.rand(1, 1, 4, 4, 4)
    assert torch.equal(MirrorInferer(SimpleInferer())(x, network), network(x))
