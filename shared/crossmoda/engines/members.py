"""What the passes of one inference said each by itself, for the measure of their agreement."""

from __future__ import annotations

import torch
from monai.inferers import Inferer


def hard_labels(logits: torch.Tensor) -> torch.Tensor:
    """The most probable class of each voxel: (B, C, ...) to uint8 (B, ...) in main memory."""
    return logits.argmax(dim=1).to(device="cpu", dtype=torch.uint8)


def last_member_labels(inferer: Inferer | None) -> list[torch.Tensor]:
    """Label maps of the last image's members: of different weights, else of different mirror images.

    Args:
        inferer: one that may wrap others in `inferer`; those with several passes keep `member_labels`.

    Returns:
        uint8 (B, ...) for each member, on the network's grid; none if there was one pass only.
    """
    while inferer is not None:
        labels = getattr(inferer, "member_labels", [])
        if len(labels) > 1:
            return labels
        inferer = getattr(inferer, "inferer", None)
    return []
