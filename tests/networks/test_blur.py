"""Blur-pooling against the filters of CUT's code, written out here, and closed forms."""

import pytest
import torch
from torch.nn import functional as F

from crossmoda.networks import BlurDown, BlurUp


def filter_kernel(row, channels):
    row = torch.tensor(row)
    kernel = torch.outer(row, row)
    return (kernel / kernel.sum())[None, None].repeat(channels, 1, 1, 1)


@pytest.mark.parametrize("size", [(8, 12), (9, 7)])
def test_down_is_a_binomial_filter_with_stride_2(size):
    x = torch.rand(2, 3, *size)
    padded = F.pad(x, [1, 1, 1, 1], mode="reflect")
    expected = F.conv2d(padded, filter_kernel([1.0, 2.0, 1.0], 3), stride=2, groups=3)
    torch.testing.assert_close(BlurDown()(x), expected)
    assert expected.shape[-2:] == ((size[0] + 1) // 2, (size[1] + 1) // 2)


def test_down_by_hand():
    x = torch.tensor([[0.0, 4.0, 8.0, 4.0]]).expand(4, 4)[None, None]
    # Columns 0 and 2, reflected at the left: (4 + 2*0 + 4)/4 and (4 + 2*8 + 4)/4.
    assert BlurDown()(x)[0, 0].tolist() == [[2.0, 6.0], [2.0, 6.0]]


def test_up_is_the_transposed_filter_with_replicated_edges():
    x = torch.rand(2, 3, 5, 6)
    padded = F.pad(x, [1, 1, 1, 1], mode="replicate")
    kernel = 4 * filter_kernel([1.0, 3.0, 3.0, 1.0], 3)
    expected = F.conv_transpose2d(padded, kernel, stride=2, padding=2, groups=3)[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(BlurUp()(x), expected)


def test_constants_stay():
    x = torch.full((1, 2, 6, 6), 0.7)
    torch.testing.assert_close(BlurDown()(x), x[..., :3, :3])
    torch.testing.assert_close(BlurUp()(x), torch.full((1, 2, 12, 12), 0.7))


def test_has_no_state():
    assert not BlurDown().state_dict()
