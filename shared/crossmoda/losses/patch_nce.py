"""The contrastive loss of CUT."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class PatchNCELoss(nn.Module):
    r"""Cross entropy of finding each query's own position among the keys of the same image (Park 2020, 3.2).

    $-\log \frac{\exp(q_i \cdot k_i / \tau)}{\sum_j \exp(q_i \cdot k_j / \tau)}$, averaged over the positions i. The
    negatives are the other positions of the same image. Keys are detached: a query shall find the source, the source
    shall not move towards the query.

    MONAI's `ContrastiveLoss` contrasts the images of a batch with each other, not positions within an image.

    Args:
        temperature: tau.
    """

    def __init__(self, temperature: float = 0.07) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Unit vectors (B, N, C) of the same N positions -> the loss of each image, (B,), in float32."""
        with torch.autocast(queries.device.type, enabled=False):  # tau would magnify bfloat16's rounding 14 times
            similarity = queries.float() @ keys.detach().float().transpose(1, 2)
            own = torch.arange(queries.shape[1], device=queries.device).expand(len(queries), -1)
            losses = F.cross_entropy(similarity.transpose(1, 2) / self.temperature, own, reduction="none")
        return losses.mean(1)
