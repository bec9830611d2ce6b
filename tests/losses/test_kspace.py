"""K-space loss against numpy's FFT and closed forms."""

import numpy as np
import pytest
import torch

from crossmoda.losses import KSpaceLoss


def test_equals_numpy():
    a, b = torch.rand(2, 1, 9, 12), torch.rand(2, 1, 9, 12)
    difference = np.fft.fft2(a.numpy(), norm="ortho") - np.fft.fft2(b.numpy(), norm="ortho")
    expected = (np.abs(difference.real) + np.abs(difference.imag)).mean() / 2
    assert KSpaceLoss()(a, b).item() == pytest.approx(expected, rel=1e-5)


def test_constant_offset_lies_in_one_coefficient():
    # An offset d is sqrt(HW) d in the central coefficient and nothing elsewhere: mean d sqrt(HW) / (2 HW).
    a = torch.rand(1, 1, 8, 8)
    assert KSpaceLoss()(a + 0.3, a).item() == pytest.approx(0.3 * 8 / (2 * 64), rel=1e-4)


def test_is_zero_for_equal_images_and_gives_gradients():
    a = torch.rand(1, 1, 8, 8, requires_grad=True)
    assert KSpaceLoss()(a, a.detach()).item() == 0
    KSpaceLoss()(a, torch.rand(1, 1, 8, 8)).backward()
    assert a.grad.abs().sum() > 0


def test_runs_under_autocast():
    a = torch.rand(1, 1, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = KSpaceLoss()(a.bfloat16(), a.bfloat16() + 1)
    assert value.dtype == torch.float32
