"""Soft Dice with one weight a class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import DiceLoss


class WeightedDiceLoss(DiceLoss):
    r"""One minus the weighted mean of the classes' soft Dice coefficients (Li 2021, 3.8).

    $L = 1 - \sum_c w_c D_c / \sum_c w_c$ and
    $D_c = (2 \sum_i p_{ci} g_{ci} + s) / (\sum_i p_{ci} + \sum_i g_{ci} + s)$,
    p the softmax of the logits, g the one-hot label; computed for each sample and then averaged over the batch.
    It lies in [0, 1], 0 for a perfect prediction.

    MONAI's `DiceLoss(weight=w)` divides by the number of classes and not by the sum of the weights, so a perfect miss
    of everything would not be 1; the gradient's direction is the same.

    Args:
        weight: one weight >= 0 a class, background first; not all zero.
        batch: True takes the sums over the whole batch.
        smooth: s, keeps an absent class finite.
    """

    def __init__(self, weight: Sequence[float] = (0.1, 1.0, 1.0), batch: bool = False, smooth: float = 1e-5) -> None:
        if min(weight) < 0 or sum(weight) == 0:
            raise ValueError(f"weights must be >= 0 and not all zero, got {tuple(weight)}")
        super().__init__(to_onehot_y=True, softmax=True, batch=batch, weight=weight, smooth_nr=smooth, smooth_dr=smooth)
        self.scale = len(weight) / sum(weight)

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:  # noqa: A002 - MONAI's name
        """Computes the loss.

        Args:
            input: logits (B, C, X, Y, Z).
            target: class numbers (B, 1, X, Y, Z).

        Returns:
            Scalar in [0, 1].
        """
        return self.scale * super().forward(input, target)
