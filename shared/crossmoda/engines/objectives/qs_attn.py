"""QS-Attn."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from crossmoda.engines.objectives.cut import CUT


class QSAttn(CUT):
    """CUT whose deepest layers compare chosen positions, mixed by attention (Hu 2022), as used by Kang 2022.

    The other layers compare random positions as in CUT.

    Args:
        attention: chooses and mixes (`QueryAttention`).
        attention_layers: how many of the last tapped layers choose by attention (2 in the authors' code).
        **options: those of `CUT`.
    """

    def __init__(self, attention: nn.Module, attention_layers: int = 2, **options: Any) -> None:
        super().__init__(**options)
        self.attention = attention
        self.first_attended = len(self.nce_layers) - attention_layers

    def select(self, layer: int, keys: torch.Tensor, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As in CUT, or by attention in the deepest layers."""
        if layer < self.first_attended:
            return super().select(layer, keys, queries)
        return self.attention(keys, queries)
