"""Weight initialisation of the image translators."""

from __future__ import annotations

from torch import nn

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def init_normal(network: nn.Module, std: float = 0.02) -> None:
    """Draw every layer's weights from N(0, std^2) and set its bias to 0 (CycleGAN, appendix 7.2)."""
    for module in network.modules():
        if isinstance(module, LAYERS):
            nn.init.normal_(module.weight, 0.0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def init_kaiming(network: nn.Module, negative_slope: float = 0.01) -> None:
    """Kaiming normal weights and zero biases, as MONAI's DynUNet has them.

    N(0, 0.02^2) does not suit a U-Net: its transposed convolutions have no norm behind them, so that the deep
    features would hardly be heard beside the skips.
    """
    for module in network.modules():
        if isinstance(module, LAYERS):
            nn.init.kaiming_normal_(module.weight, a=negative_slope)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def init_xavier(network: nn.Module, gain: float = 0.02) -> None:
    """Xavier normal weights and zero biases, as CUT's code has them (Park 2020: gain 0.02)."""
    for module in network.modules():
        if isinstance(module, LAYERS):
            nn.init.xavier_normal_(module.weight, gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def initialise(network: nn.Module, scheme: str) -> None:
    """Draw a network's weights by the name of a scheme.

    Args:
        network: changed in place.
        scheme: "normal" (Zhu 2017), "xavier" (Park 2020), or "kaiming" ("he" in Chen 2023; for ReLU, by fan in).

    Raises:
        ValueError: for another name.
    """
    if scheme == "normal":
        init_normal(network)
    elif scheme == "xavier":
        init_xavier(network)
    elif scheme == "kaiming":
        init_kaiming(network, negative_slope=0.0)
    else:
        raise ValueError(f"init must be one of normal, xavier, kaiming, but is '{scheme}'")
