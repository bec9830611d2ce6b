"""Voxels of which nobody knows the class."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from monai.losses import DeepSupervisionLoss
from torch import nn
from torch.nn import functional as F

from crossmoda.labels import IGNORE

# exp(-CONFIDENCE) is zero beside 1 in float32 and bfloat16: cross entropy there is 0, and softmax 1 or about 1e-44.
CONFIDENCE = 100.0

Output = torch.Tensor | Sequence[torch.Tensor]


class IgnoreLabelLoss(nn.Module):
    """Lets any segmentation loss pass over voxels whose label is `ignore` (pseudo-labels that are not sure).

    There the logits become those of a sure background, constants without gradient, and the label 0: no term of a Dice
    or a cross entropy pulls the network anywhere, and no foreground class counts the voxel. MONAI's `MaskedLoss`
    multiplies logits and label by a mask, which leaves a softmax of 1/C in the masked voxels and hence in the Dice's
    denominators. torch's `ignore_index` is for the cross entropy alone.

    What remains: a mean over voxels is divided by their number including ignored ones, and a Dice of the background
    class counts them as right.

    With several outputs (deep supervision) each is masked by the mask shrunk to its size, as the wrapped loss shrinks
    the label. Outputs of one channel are attention maps in [0, 1] (see `AttentionSupervisionLoss`): they become 0 where
    their part of the label has ignored voxels and no foreground.

    Args:
        loss: takes an output, or a list of them, and class numbers (B, 1, X, Y, Z).
        ignore: the label of voxels to pass over.
        mode: how the wrapped loss shrinks labels; None takes that of MONAI's `DeepSupervisionLoss`, `nearest` for
            others.
    """

    def __init__(
        self, loss: Callable[[Output, torch.Tensor], torch.Tensor], ignore: int = IGNORE, mode: str | None = None
    ) -> None:
        super().__init__()
        self.loss = loss
        self.ignore = ignore
        self.mode = mode or (loss.interp_mode if isinstance(loss, DeepSupervisionLoss) else "nearest")

    def forward(self, prediction: Output, target: torch.Tensor) -> torch.Tensor:
        """Computes the loss.

        Args:
            prediction: logits (B, C, X, Y, Z), or a list of them and of attention maps (B, 1, x, y, z).
            target: class numbers (B, 1, X, Y, Z), `ignore` where there is none.

        Returns:
            Scalar.
        """
        ignored = target == self.ignore
        if not ignored.any():
            return self.loss(prediction, target)
        target = target.masked_fill(ignored, 0)
        if isinstance(prediction, torch.Tensor):
            return self.loss(self._masked(prediction, ignored, target), target)
        return self.loss([self._masked(output, ignored, target) for output in prediction], target)

    def _masked(self, output: torch.Tensor, ignored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if output.shape[1] == 1:
            pooled = [F.adaptive_max_pool3d(mask.float(), output.shape[2:]) > 0 for mask in (ignored, target > 0)]
            return output.masked_fill(pooled[0] & ~pooled[1], 0.0)
        if output.shape[2:] != ignored.shape[2:]:
            ignored = F.interpolate(ignored.float(), size=output.shape[2:], mode=self.mode) > 0
        background = torch.full((1, output.shape[1], 1, 1, 1), -CONFIDENCE, device=output.device, dtype=output.dtype)
        background[:, 0] = 0.0
        return torch.where(ignored, background, output)
