"""MSF-Koos-Net (Han 2022): the Koos grade from the translator's frozen features and the tumour's mask."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from crossmoda.networks.msf_net import SLOPE, MSFEncoder

ADJACENT = 3  # slices that E takes as channels; Han 2022, 4.1
STRIDES = (2, 1, 2, 1, 2, 1)  # of the high-level encoder's convolutions; Han 2022, code


class _Freezable(nn.Module):
    """A network some of whose named children neither learn nor change their buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen: tuple[str, ...] = ()

    def _freeze(self, name: str) -> None:
        getattr(self, name).requires_grad_(False)
        self.frozen = (*self.frozen, name)
        self.train(self.training)

    def train(self, mode: bool = True) -> _Freezable:
        """As torch's, but frozen children stay in eval mode: batch norm would move their statistics."""
        super().train(mode)
        for name in self.frozen:
            getattr(self, name).eval()
        return self


class KoosHead(_Freezable):
    """Features of a frozen encoder, with the tumour's mask as last channel -> grade, or vectors for contrast.

    The high-level encoder E_H has six 3x3x3 convolutions, the first, third and fifth with stride 2, each with batch
    norm and leaky ReLU, and a global average. Two projection heads (self-supervised, supervised) make unit vectors of
    it; one linear layer makes the grade. With the default sizes 39.3 million parameters.

    Args:
        in_channels: of the features, without the mask.
        hidden: channels of E_H.
        projection: length of the unit vectors; the layer before it has `hidden` / 2.
        classes: grades.
        mask_join: `concatenate` (Han 2022, 3.3) takes the mask for one more channel; `gate` (Han 2022, code) multiplies
            the features by the sigmoid of a 3x3x3 convolution of it.
        feature_dropout: probability in [0, 1) that training drops a channel of the features (the mask stays), so that
            the grade hangs on no single one: pseudo-hrT2 and hrT2 differ in them.

    Raises:
        ValueError: if `mask_join` is neither.
    """

    PARTS = ("high_encoder", "self_projection", "supervised_projection", "classifier")

    def __init__(
        self,
        in_channels: int = 256,
        hidden: int = 512,
        projection: int = 128,
        classes: int = 4,
        mask_join: str = "concatenate",
        feature_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if mask_join not in ("concatenate", "gate"):
            raise ValueError(f"mask_join is '{mask_join}': give 'concatenate' or 'gate'")
        self.high_encoder = _HighEncoder(in_channels, hidden, mask_join == "gate", feature_dropout)
        self.self_projection = _projection(hidden, projection)
        self.supervised_projection = _projection(hidden, projection)
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features and mask (B, in_channels + 1, X, Y, Z) -> logits (B, classes)."""
        return self.classifier(self.high_encoder(features))

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Features and mask -> unit vectors (B, 2, projection): self-supervised, supervised."""
        high = self.high_encoder(features)
        both = torch.stack([self.self_projection(high), self.supervised_projection(high)], dim=1)
        return F.normalize(both, dim=-1)

    def freeze(self, parts: Sequence[str]) -> None:
        """Keep some of `PARTS` as they are: no gradients, and eval mode whatever `train` is called with."""
        for part in parts:
            self._freeze(part)


class MSFKoosNet(_Freezable):
    """A crop of one scan, of any modality, and the tumour's mask -> Koos grade (Han 2022, 3.3).

    Each three adjacent slices go through MSF-Net's encoder E, so that Z slices make Z - 2 of the features; the mask of
    the middle slices is shrunk to the features' size bilinearly. `KoosHead` does the rest. E was trained on images in
    [-1, 1], and its first layers take gain and offset away. E has 7.5 million parameters
    beside the head's 39.3.

    Args:
        features: of E, as its translator's (`MSFGenerator`).
        n_blocks: of E, as its translator's.
        hidden: see `KoosHead`.
        projection: see `KoosHead`.
        classes: see `KoosHead`.
        mask_join: see `KoosHead`.
        feature_dropout: see `KoosHead`.
        frozen: parts that stay as they are: `encoder` and those of `KoosHead.PARTS`.

    Raises:
        ValueError: if a part to freeze is not known.

    Example:
        >>> net = MSFKoosNet(features=4, n_blocks=1, hidden=8, projection=4)
        >>> net(torch.zeros(1, 2, 16, 16, 10)).shape
        torch.Size([1, 4])
    """

    PARTS = ("encoder", *KoosHead.PARTS)

    def __init__(
        self,
        features: int = 64,
        n_blocks: int = 6,
        hidden: int = 512,
        projection: int = 128,
        classes: int = 4,
        mask_join: str = "concatenate",
        feature_dropout: float = 0.0,
        frozen: Sequence[str] = ("encoder",),
    ) -> None:
        super().__init__()
        unknown = sorted(set(frozen) - set(self.PARTS))
        if unknown:
            raise ValueError(f"unknown part to freeze: {unknown[0]}; there are {', '.join(self.PARTS)}")
        self.adjacent = ADJACENT
        self.encoder = MSFEncoder(self.adjacent, features, n_blocks)
        self.head = KoosHead(4 * features, hidden, projection, classes, mask_join, feature_dropout)
        if "encoder" in frozen:
            self._freeze("encoder")
        self.head.freeze([part for part in frozen if part != "encoder"])

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Image and mask (B, 2, X, Y, Z) -> features and mask (B, 4 features + 1, ceil(X / 4), ceil(Y / 4), Z - 2)."""
        image, mask = x[:, 0], x[:, 1:, :, :, 1:-1]
        slices = image.unfold(-1, self.adjacent, 1).permute(0, 3, 4, 1, 2)  # (B, Z - 2, 3, X, Y)
        batch, depth = slices.shape[0], slices.shape[1]
        features = self.encoder(slices.flatten(0, 1))
        mask = F.interpolate(mask.permute(0, 4, 1, 2, 3).flatten(0, 1), features.shape[-2:], mode="bilinear")
        both = torch.cat([features, mask.to(features.dtype)], dim=1)
        return both.unflatten(0, (batch, depth)).permute(0, 2, 3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Image in [0, 1] and mask in [0, 1], (B, 2, X, Y, Z) -> logits (B, classes)."""
        return self.head(self.encode(x))

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Image and mask (B, 2, X, Y, Z) -> unit vectors (B, 2, projection), see `KoosHead.project`."""
        return self.head.project(self.encode(x))


class Projector(nn.Module):
    """Calls a network's `project`: what pre-training trains, in the form that engines and several processes want.

    The classifier takes no part in pre-training and is frozen.

    Args:
        network: `MSFKoosNet`, or its `head` for features.
    """

    def __init__(self, network: MSFKoosNet | KoosHead) -> None:
        super().__init__()
        self.network = network
        head = network.head if isinstance(network, MSFKoosNet) else network
        head.classifier.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the network's `project`."""
        return self.network.project(x)


class _HighEncoder(nn.Module):
    """E_H: features and mask (B, in_channels + 1, X, Y, Z) -> (B, hidden)."""

    def __init__(self, in_channels: int, hidden: int, gate: bool, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout3d(dropout)
        self.gate = nn.Conv3d(1, in_channels, 3, padding=1) if gate else None
        channels = in_channels if gate else in_channels + 1
        layers: list[nn.Module] = []
        for stride in STRIDES:
            layers += [
                nn.Conv3d(channels, hidden, 3, stride=stride, padding=1),
                nn.BatchNorm3d(hidden),
                nn.LeakyReLU(SLOPE, inplace=True),
            ]
            channels = hidden
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features, mask = self.dropout(x[:, :-1]), x[:, -1:]
        if self.gate is not None:
            return self.layers(features * torch.sigmoid(self.gate(mask)))
        return self.layers(torch.cat([features, mask], dim=1))


def _projection(hidden: int, length: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(hidden, hidden // 2), nn.ReLU(inplace=True), nn.Linear(hidden // 2, length))
