"""Soft Dice whose voxels weigh more the worse they are predicted."""

from __future__ import annotations

import torch
from monai.networks.utils import one_hot
from torch import nn


class HardnessWeightedDiceLoss(nn.Module):
    r"""Dice loss with the voxel weights of Wang 2019, as in VS_Seg's code.

    $w_{ci} = \lambda |p_{ci} - g_{ci}| + (1 - \lambda)$ and
    $L = 1 - \frac{1}{C} \sum_c (2 \sum_i w_{ci} p_{ci} g_{ci} + s) / (\sum_i w_{ci} (p_{ci} + g_{ci}) + s)$,
    p the softmax of the logits, g the one-hot label, background included; computed for each sample and then averaged
    over the batch. The weights are not detached: the gradient goes through them too. It lies in [0, 1].

    MONAI's `DiceLoss` has weights of classes only; its `MaskedDiceLoss` multiplies prediction and label with the mask,
    so that a weight would be squared in the intersection.

    Args:
        hardness: lambda in [0, 1]; 0.6 in VS_Seg's code. At 0 all voxels weigh the same, which gives the plain Dice
            loss.
        smooth: s, keeps an absent class finite.
    """

    def __init__(self, hardness: float = 0.6, smooth: float = 1e-5) -> None:
        super().__init__()
        if not 0 <= hardness <= 1:
            raise ValueError(f"hardness must lie in [0, 1], got {hardness}")
        self.hardness = hardness
        self.smooth = smooth

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Computes the loss.

        Args:
            logits: (B, C, X, Y, Z).
            target: class numbers (B, 1, X, Y, Z).

        Returns:
            Scalar in [0, 1].
        """
        predicted = logits.softmax(dim=1)
        truth = one_hot(target, num_classes=logits.shape[1], dtype=predicted.dtype)
        weight = self.hardness * (predicted - truth).abs() + (1 - self.hardness)
        overlap = (weight * predicted * truth).sum(dim=(2, 3, 4))
        total = (weight * (predicted + truth)).sum(dim=(2, 3, 4))
        return (1 - (2 * overlap + self.smooth) / (total + self.smooth)).mean()
