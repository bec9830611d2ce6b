"""What image translators minimise: one class a method."""

from crossmoda.engines.objectives.base import Batch, TranslationObjective
from crossmoda.engines.objectives.cut import CUT
from crossmoda.engines.objectives.cyclegan import CycleGAN
from crossmoda.engines.objectives.cyclegan_segmenter import CycleGANSegmenter
from crossmoda.engines.objectives.msf_net import MSFNet
from crossmoda.engines.objectives.qs_attn import QSAttn
from crossmoda.engines.objectives.site_cyclegan import SiteCycleGAN

__all__ = ["CUT", "Batch", "CycleGAN", "CycleGANSegmenter", "MSFNet", "QSAttn", "SiteCycleGAN", "TranslationObjective"]
