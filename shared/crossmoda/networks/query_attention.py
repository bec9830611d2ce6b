"""Query-selected attention."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from crossmoda.errors import InputError, exit_on_input_error

MODES = ("global", "local", "local_global")


class QueryAttention(nn.Module):
    """Chooses the positions that contrastive translation compares, and mixes their features by attention (Hu 2022).

    A row of the attention matrix is the softmax of a position's dot products with all positions ("global") or with
    its 7x7 neighbourhood ("local"), neither scaled nor projected. The `count` rows of least entropy are kept, whose
    positions differ most from the others. Both the source's features (keys) and the translation's (queries) are
    mixed by the same rows, which come from the source alone. "local_global" chooses by the local entropy and mixes
    by the global rows.

    As in the authors' code, gradients reach the source's features through the attention's weights, and the
    neighbourhood is padded with zeros. Not as in the code: its local variant reads the unfolded neighbourhood
    (channels, 49) as if it were (49, channels), which mixes channels and positions up; here it is what the paper
    says. Positions of equal entropy (0, where a row is one-hot within float32) are chosen at random, where the code
    leaves it to the sort.

    Only the chosen rows are held for the gradient: the full matrix of 4096 x 4096 entries an image is computed in
    parts and forgotten. All in float32, because the dot products run into the thousands. torch's and MONAI's
    attention give out no rows to choose from.

    Args:
        mode: "global", "local" or "local_global".
        count: positions an image, or all if there are fewer.
        window: side of the neighbourhood, odd.
        part: rows of the attention matrix computed at once.

    Raises:
        InputError: for another mode.
    """

    def __init__(self, mode: str = "global", count: int = 256, window: int = 7, part: int = 512) -> None:
        super().__init__()
        if mode not in MODES:
            raise InputError(f"attention must be one of {', '.join(MODES)}, but is '{mode}'")
        self.mode = mode
        self.count = count
        self.window = window
        self.part = part

    def forward(self, keys: torch.Tensor, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Feature maps (B, C, H, W) of sources and their translations -> mixed vectors (B, N, C) of both.

        The keys' vectors are detached; through the queries' vectors gradients flow into `queries`, and into `keys` by
        way of the attention's weights.
        """
        with torch.autocast(keys.device.type, enabled=False):
            keys, queries = keys.float(), queries.float()
            index = self.select(keys.detach())
            if self.mode == "local":
                windows = self._windows(keys, index)
                weights = torch.einsum("bnc,bnkc->bnk", gather(keys, index), windows).softmax(-1)
                mixed = [torch.einsum("bnk,bnkc->bnc", weights, w) for w in (windows, self._windows(queries, index))]
            else:
                weights = (gather(keys, index) @ keys.flatten(2)).softmax(-1)
                mixed = [weights @ rows.flatten(2).transpose(1, 2) for rows in (keys, queries)]
        return mixed[0].detach(), mixed[1]

    @torch.no_grad()
    def select(self, keys: torch.Tensor) -> torch.Tensor:
        """Positions (B, N) of least entropy, as indices into the flattened maps (B, C, H, W)."""
        entropy = self._global_entropy(keys) if self.mode == "global" else self._local_entropy(keys)
        shuffled = torch.randperm(entropy.shape[1], device=keys.device)
        order = entropy[:, shuffled].argsort(dim=1, stable=True)[:, : self.count]
        return shuffled[order]

    def _global_entropy(self, keys: torch.Tensor) -> torch.Tensor:
        rows = keys.flatten(2)
        parts = [_entropy(part.transpose(1, 2) @ rows) for part in rows.split(self.part, dim=2)]
        return torch.cat(parts, 1)

    def _local_entropy(self, keys: torch.Tensor) -> torch.Tensor:
        height, width = keys.shape[-2:]
        padded = self._pad(keys)
        shifts = [(y, x) for y in range(self.window) for x in range(self.window)]
        # Shift by shift: unfolding would hold 49 copies of the map.
        logits = [(padded[..., y : y + height, x : x + width] * keys).sum(1) for y, x in shifts]
        return _entropy(torch.stack(logits, -1).flatten(1, 2))

    def _windows(self, maps: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """The neighbourhoods (B, N, window^2, C) of chosen positions."""
        width, padded = maps.shape[-1], self._pad(maps)
        steps = torch.arange(self.window, device=maps.device)
        # A position's window starts at the same row and column of the padded map.
        rows = (index // width)[..., None, None] + steps[:, None]
        columns = (index % width)[..., None, None] + steps
        flat = (rows * padded.shape[-1] + columns).flatten(1)
        return gather(padded, flat).unflatten(1, (index.shape[1], self.window**2))

    def _pad(self, maps: torch.Tensor) -> torch.Tensor:
        return F.pad(maps, [self.window // 2] * 4)


query_attention_or_exit = exit_on_input_error(QueryAttention)


def gather(maps: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Vectors (B, N, C) of feature maps (B, C, H, W) at flattened positions (B, N)."""
    rows = maps.flatten(2)
    return rows.gather(2, index[:, None].expand(-1, rows.shape[1], -1)).transpose(1, 2)


def _entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of the softmax over the last axis; a vanished probability adds 0, as its logarithm is finite here."""
    logarithm = logits.log_softmax(-1)
    return -(logarithm.exp() * logarithm).sum(-1)
