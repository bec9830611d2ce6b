"""A residual generator that translates into a chosen site's style."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import torch
from torch import nn
from torch.nn import functional as F

from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.networks.init import init_normal
from crossmoda.networks.padding import pad_to_multiple


class SiteNorm(nn.Module):
    """Instance norm with a learned scale and shift for each site (conditional instance norm, Dumoulin 2017).

    MONAI's and torch's instance norms have one scale and shift for all images.

    Args:
        channels: channels of the input.
        n_sites: length of the site code.
    """

    def __init__(self, channels: int, n_sites: int) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(channels)
        self.weight = nn.Parameter(torch.ones(n_sites, channels))
        self.bias = nn.Parameter(torch.zeros(n_sites, channels))

    def forward(self, x: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) and the code (B or 1, n_sites) -> (B, C, H, W)."""
        x = self.norm(x)
        # A product and a sum rather than a matrix product, which autocast would round to bfloat16.
        scale = (code[:, :, None] * self.weight).sum(1).to(x.dtype)
        shift = (code[:, :, None] * self.bias).sum(1).to(x.dtype)
        return x * scale[:, :, None, None] + shift[:, :, None, None]


class SiteConv(nn.Module):
    """A convolution (with its padding), `SiteNorm`, and ReLU.

    Args:
        convolution: any module that gives `channels` channels.
        channels: its output channels.
        n_sites: length of the site code.
        activate: False leaves the ReLU out.
    """

    def __init__(self, convolution: nn.Module, channels: int, n_sites: int, activate: bool = True) -> None:
        super().__init__()
        self.convolution = convolution
        self.norm = SiteNorm(channels, n_sites)
        self.activation = nn.ReLU() if activate else nn.Identity()

    def forward(self, x: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        """Slices or features and the code (B or 1, n_sites) -> features."""
        return self.activation(self.norm(self.convolution(x), code))


class SiteBlock(nn.Module):
    """Two reflection-padded 3x3 convolutions with `SiteNorm`, added to the input.

    Args:
        channels: channels of input and output.
        n_sites: length of the site code.
    """

    def __init__(self, channels: int, n_sites: int) -> None:
        super().__init__()
        self.first = SiteConv(_reflected(channels, channels, 3), channels, n_sites)
        self.second = SiteConv(_reflected(channels, channels, 3), channels, n_sites, activate=False)

    def forward(self, x: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) and the code (B or 1, n_sites) -> (B, C, H, W)."""
        return x + self.second(self.first(x, code), code)


class SiteGenerator(nn.Module):
    """`ResnetGenerator`'s layers with a scale and shift for each site in every norm: one network, any site's style.

    Our own, of no paper. hrT2 differs between sites (London CISS, Tilburg TSE), and a plain generator mixes their
    looks. All convolutions are shared; a site costs two numbers a channel (10,496 beside 11.4 million parameters with
    64 features and 9 blocks). `network(x)` translates into `site`, which is no part of the state dict, so that one
    checkpoint serves all sites and exports for the chosen one.

    Args:
        sites: the sites' names; their order is that of the code and must be the training's.
        site: the site to translate into where no code is given.
        in_channels: channels of the input.
        out_channels: channels of the output.
        features: channels after the stem; doubled by each strided convolution.
        n_blocks: residual blocks at a quarter of the resolution.

    Raises:
        InputError: if `site` is none of `sites`.

    Example:
        >>> SiteGenerator(["ldn", "etz"], "etz", features=8, n_blocks=1)(torch.zeros(1, 1, 30, 34)).shape
        torch.Size([1, 1, 30, 34])
    """

    def __init__(
        self,
        sites: Sequence[str],
        site: str,
        in_channels: int = 1,
        out_channels: int = 1,
        features: int = 64,
        n_blocks: int = 9,
    ) -> None:
        super().__init__()
        sites = list(sites or [])
        if site not in sites:
            raise InputError(
                f"site '{site}' is none of those in sites ({', '.join(sites)}): name one of them with --site"
            )
        self.n_sites = len(sites)
        code = F.one_hot(torch.tensor([sites.index(site)]), self.n_sites).float()
        self.register_buffer("site_code", code, persistent=False)  # torch.export reserves the name "code"
        n = self.n_sites
        self.encoder = nn.ModuleList(
            [
                SiteConv(_reflected(in_channels, features, 7), features, n),
                SiteConv(nn.Conv2d(features, 2 * features, 3, stride=2, padding=1), 2 * features, n),
                SiteConv(nn.Conv2d(2 * features, 4 * features, 3, stride=2, padding=1), 4 * features, n),
            ]
        )
        self.blocks = nn.ModuleList([SiteBlock(4 * features, n) for _ in range(n_blocks)])
        self.decoder = nn.ModuleList(
            [SiteConv(_up(4 * features), 2 * features, n), SiteConv(_up(2 * features), features, n)]
        )
        self.head = nn.Sequential(_reflected(features, out_channels, 7), nn.Tanh())
        init_normal(self)

    def forward(self, x: torch.Tensor, code: Optional[torch.Tensor] = None) -> torch.Tensor:  # noqa: UP045 - TorchScript
        """Translate slices.

        Args:
            x: (B, in_channels, H, W) in [-1, 1].
            code: site codes (B or 1, n_sites), one-hot, or between sites; None takes the chosen site's.

        Returns:
            (B, out_channels, H, W) in [-1, 1].
        """
        if code is None:
            code = self.site_code
        y = pad_to_multiple(x, 4)
        for layer in self.encoder:
            y = layer(y, code)
        for block in self.blocks:
            y = block(y, code)
        for layer in self.decoder:
            y = layer(y, code)
        return self.head(y)[..., : x.shape[-2], : x.shape[-1]]


@exit_on_input_error
def site_generator_or_exit(**options) -> SiteGenerator:
    """`SiteGenerator`, for configs: a fault in the sites ends the command with one line."""
    return SiteGenerator(**options)


def _reflected(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    return nn.Sequential(nn.ReflectionPad2d(kernel_size // 2), nn.Conv2d(in_channels, out_channels, kernel_size))


def _up(channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, channels // 2, 3, stride=2, padding=1, output_padding=1)
