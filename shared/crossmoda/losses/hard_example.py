"""Cross entropy with hard examples around the tumour, and Dice, over the outputs of a deeply supervised network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import DiceLoss
from torch import nn
from torch.nn import functional as F


class HardExampleDiceCELoss(nn.Module):
    r"""Loss of Chen 2023 (2.2; numbers and form from their code).

    $L = \sum_k 2^{-k} (\lambda \, CE_k + Dice_k)$ over the outputs k = 0 (full size), 1, 2, ... of the network.
    $CE_k = \frac{1}{N} \sum_i w_i \, ce_i$ divides by the number of voxels N, not by the weights. A voxel's weight w is
    its class's; at full size it is raised where examples are hard: in a ring around the tumour, the dilated mask minus
    the mask. The dilation is a cube whose edge is drawn anew each time. The paper also names erosion, which the code
    lacks: `erosion_sizes` raises the weights of the tumour's own rim, the mask minus the eroded mask, as well.
    Dice is 1 - the mean over the foreground classes, each over the whole batch. Labels are shrunk to the outputs' sizes
    by taking the nearest voxel.

    MONAI's `DiceCELoss` has one weight a class and not a voxel, and its `DeepSupervisionLoss` gives every output the
    same loss, whereas the ring is for the full size only.

    Sizes are drawn from torch's global generator.

    Args:
        class_weights: cross-entropy weight of each class, background first.
        hard_labels: classes that together are the tumour.
        hard_weight: added to the weight of hard examples; 0 turns them off.
        dilation_sizes: odd edges in voxels, one of which is drawn; none for no ring.
        erosion_sizes: likewise for the rim; none in the code.
        ce_factor: $\lambda$.
        output_decay: factor from one output's weight to that of the next.
        smooth: keeps an absent class's Dice finite.
    """

    def __init__(
        self,
        class_weights: Sequence[float],
        hard_labels: Sequence[int] = (1,),
        hard_weight: float = 15.0,
        dilation_sizes: Sequence[int] = (7, 9, 11, 13, 15),
        erosion_sizes: Sequence[int] = (),
        ce_factor: float = 20.0,
        output_decay: float = 0.5,
        smooth: float = 1e-5,
    ) -> None:
        super().__init__()
        if min(class_weights) < 0:
            raise ValueError(f"class weights must be >= 0, got {tuple(class_weights)}")
        if any(size < 1 or size % 2 == 0 for size in (*dilation_sizes, *erosion_sizes)):
            raise ValueError(f"sizes must be odd, got {tuple(dilation_sizes)} and {tuple(erosion_sizes)}")
        self.register_buffer("class_weights", torch.tensor(class_weights, dtype=torch.float32), persistent=False)
        self.hard_labels = tuple(hard_labels)
        self.hard_weight = hard_weight
        self.dilation_sizes = tuple(dilation_sizes)
        self.erosion_sizes = tuple(erosion_sizes)
        self.ce_factor = ce_factor
        self.output_decay = output_decay
        self.dice = DiceLoss(
            include_background=False, to_onehot_y=True, softmax=True, batch=True, smooth_nr=smooth, smooth_dr=smooth
        )

    def forward(self, outputs: torch.Tensor | Sequence[torch.Tensor], label: torch.Tensor) -> torch.Tensor:
        """Computes the loss.

        Args:
            outputs: logits (B, C, X, Y, Z), or several such, the full size first.
            label: class numbers (B, 1, X, Y, Z).

        Returns:
            Scalar >= 0.
        """
        if isinstance(outputs, torch.Tensor):
            outputs = [outputs]
        label = torch.as_tensor(label).float()
        total = outputs[0].new_zeros(())
        for k, logits in enumerate(outputs):
            shrunk = label if k == 0 else F.interpolate(label, size=logits.shape[2:], mode="nearest")
            classes = shrunk[:, 0].long()
            weights = self.class_weights.to(logits.device)[classes]
            if k == 0:
                weights = weights + self.hard_weight * self.hard_examples(label)[:, 0]
            cross_entropy = (weights * F.cross_entropy(logits, classes, reduction="none")).mean()
            total = total + self.output_decay**k * (self.ce_factor * cross_entropy + self.dice(logits, shrunk))
        return total

    def hard_examples(self, label: torch.Tensor) -> torch.Tensor:
        """Draws the sizes and marks the hard examples.

        Args:
            label: class numbers (B, 1, X, Y, Z).

        Returns:
            Ones in the ring (and in the rim), zeros elsewhere; the label's shape, float32.
        """
        tumour = torch.isin(label, torch.tensor(self.hard_labels, device=label.device, dtype=label.dtype)).float()
        hard = torch.zeros_like(tumour)
        if self.hard_weight == 0:
            return hard
        if self.dilation_sizes:
            hard = hard + dilate(tumour, _draw(self.dilation_sizes)) - tumour
        if self.erosion_sizes:
            hard = hard + dilate(1 - tumour, _draw(self.erosion_sizes)) * tumour
        return hard


def dilate(mask: torch.Tensor, size: int) -> torch.Tensor:
    """Dilates by a cube; axis by axis, which gives the same as one pooling with a cube and is far cheaper.

    Args:
        mask: zeros and ones (B, C, X, Y, Z), float.
        size: odd edge of the cube in voxels.
    """
    for axis in range(3):
        kernel = [size if axis == other else 1 for other in range(3)]
        mask = F.max_pool3d(mask, kernel, stride=1, padding=[edge // 2 for edge in kernel])
    return mask


def _draw(sizes: Sequence[int]) -> int:
    return sizes[int(torch.randint(len(sizes), ()))]
