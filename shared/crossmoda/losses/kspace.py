"""Cycle consistency in k-space."""

from __future__ import annotations

import torch
from torch import nn


class KSpaceLoss(nn.Module):
    r"""Mean absolute difference of the real and imaginary parts of two images' k-spaces.

    $\frac{1}{2BCHW} \sum |\mathrm{Re}(\mathcal F a - \mathcal F b)| + |\mathrm{Im}(\mathcal F a - \mathcal F b)|$ with
    the orthonormal 2D Fourier transform, so that the value is of the size of the images' own differences. Shin 2021,
    section 2.1, asks for a cycle loss between k-spaces; which distance is open in the paper.

    MONAI has no k-space loss. Computed in float32 under autocast, as the FFT knows no bfloat16.
    """

    def forward(self, image: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Two image batches (B, C, H, W) -> scalar."""
        with torch.autocast(image.device.type, enabled=False):
            # The transform is linear: one FFT of the difference does for both.
            difference = torch.fft.fft2(image.float() - reference.float(), norm="ortho")
            return torch.view_as_real(difference).abs().mean()
