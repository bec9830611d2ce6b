"""Networks that MONAI lacks."""

from crossmoda.networks.init import init_kaiming, init_normal
from crossmoda.networks.padding import pad_to_multiple
from crossmoda.networks.resnet_generator import ResnetGenerator
from crossmoda.networks.unet2d5 import UNet2d5
from crossmoda.networks.unet_generator import UNetDecoder, UNetGenerator

__all__ = [
    "ResnetGenerator",
    "UNet2d5",
    "UNetDecoder",
    "UNetGenerator",
    "init_kaiming",
    "init_normal",
    "pad_to_multiple",
]
