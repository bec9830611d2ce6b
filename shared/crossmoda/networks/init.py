"""Weight initialisation of the image translators."""

from __future__ import annotations

from torch import nn


def init_normal(network: nn.Module, std: float = 0.02) -> None:
    """Draw every convolution's weights from N(0, std^2) and set its bias to 0 (CycleGAN, appendix 7.2)."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0.0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def init_kaiming(network: nn.Module, negative_slope: float = 0.01) -> None:
    """Kaiming normal weights and zero biases, as MONAI's DynUNet has them.

    N(0, 0.02^2) does not suit a U-Net: its transposed convolutions have no norm behind them, so that the deep
    features would hardly be heard beside the skips.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight, a=negative_slope)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
