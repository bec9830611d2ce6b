"""Attention maps that learn from the label where to look."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from monai.losses import DiceLoss
from torch import nn
from torch.nn import functional as F


class AttentionSupervisionLoss(nn.Module):
    """A segmentation loss plus the Dice loss of the attention maps (Wang 2019, as in VS_Seg's code).

    Each map is compared with the label, max-pooled to the map's size; the mean over the maps is added. VS_Seg has one
    foreground class; here every class but the background is to be attended to.

    Args:
        segmentation_loss: takes logits (B, C, X, Y, Z) and class numbers (B, 1, X, Y, Z).
        weight: of the maps' part; 1 in VS_Seg's code.
    """

    def __init__(
        self, segmentation_loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], weight: float = 1.0
    ) -> None:
        super().__init__()
        self.segmentation_loss = segmentation_loss
        self.weight = weight
        self.map_loss = DiceLoss()

    def forward(self, prediction: Sequence[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """Computes the loss.

        Args:
            prediction: logits (B, C, X, Y, Z), then the maps (B, 1, x, y, z) in [0, 1] whose sizes divide those of the
                logits, as `SupervisedAttentionUNet2d5` returns them in training mode.
            target: class numbers (B, 1, X, Y, Z).

        Returns:
            Scalar.
        """
        logits, *maps = prediction
        foreground = (target > 0).to(logits.dtype)
        # Adaptive pooling to a divisor of the size is plain max-pooling.
        losses = [self.map_loss(item, F.adaptive_max_pool3d(foreground, item.shape[2:])) for item in maps]
        return self.segmentation_loss(logits, target) + self.weight * torch.stack(losses).mean()
