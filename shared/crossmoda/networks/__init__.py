"""Networks that MONAI lacks."""

from crossmoda.networks.blur import BlurDown, BlurUp
from crossmoda.networks.deep_supervision_dynunet import DeepSupervisionDynUNet
from crossmoda.networks.init import init_kaiming, init_normal, init_xavier, initialise
from crossmoda.networks.msf_koos_net import KoosHead, MSFKoosNet, Projector
from crossmoda.networks.msf_net import MSFDecoder, MSFDiscriminator, MSFEncoder, MSFGenerator, MSFProxyDecoder
from crossmoda.networks.padding import pad_to_multiple
from crossmoda.networks.patch_discriminator import AntialiasedPatchDiscriminator
from crossmoda.networks.patch_projector import PatchProjector, patch_projector_or_exit
from crossmoda.networks.query_attention import QueryAttention, query_attention_or_exit
from crossmoda.networks.residual_unet3d import ResidualUNet3d
from crossmoda.networks.resnet_generator import ResnetGenerator
from crossmoda.networks.resunet2d5 import ResUNet2d5
from crossmoda.networks.site_generator import SiteGenerator, site_generator_or_exit
from crossmoda.networks.supervised_attention_unet2d5 import SupervisedAttentionUNet2d5
from crossmoda.networks.unet2d5 import UNet2d5
from crossmoda.networks.unet_generator import UNetDecoder, UNetGenerator

__all__ = [
    "AntialiasedPatchDiscriminator",
    "BlurDown",
    "BlurUp",
    "DeepSupervisionDynUNet",
    "KoosHead",
    "MSFDecoder",
    "MSFDiscriminator",
    "MSFEncoder",
    "MSFGenerator",
    "MSFKoosNet",
    "MSFProxyDecoder",
    "PatchProjector",
    "Projector",
    "QueryAttention",
    "ResUNet2d5",
    "ResidualUNet3d",
    "ResnetGenerator",
    "SiteGenerator",
    "SupervisedAttentionUNet2d5",
    "UNet2d5",
    "UNetDecoder",
    "UNetGenerator",
    "init_kaiming",
    "init_normal",
    "init_xavier",
    "initialise",
    "pad_to_multiple",
    "patch_projector_or_exit",
    "query_attention_or_exit",
    "site_generator_or_exit",
]
