"""What image translators minimise: one class a method."""

from crossmoda.engines.objectives.base import Batch, TranslationObjective
from crossmoda.engines.objectives.cyclegan import CycleGAN
from crossmoda.engines.objectives.cyclegan_segmenter import CycleGANSegmenter

__all__ = ["Batch", "CycleGAN", "CycleGANSegmenter", "TranslationObjective"]
