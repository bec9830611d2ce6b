"""Losses that MONAI lacks."""

from crossmoda.losses.attention_supervision import AttentionSupervisionLoss
from crossmoda.losses.contrastive import UNGRADED, CrossModalContrastiveLoss, KoosPretrainingLoss, SupConLoss
from crossmoda.losses.hard_example import HardExampleDiceCELoss
from crossmoda.losses.hardness_weighted_dice import HardnessWeightedDiceLoss
from crossmoda.losses.ignore_label import IgnoreLabelLoss
from crossmoda.losses.kspace import KSpaceLoss
from crossmoda.losses.patch_nce import PatchNCELoss
from crossmoda.losses.perceptual import PerceptualLoss, load_perceptual_loss, load_perceptual_loss_or_exit
from crossmoda.losses.weighted_dice import WeightedDiceLoss

__all__ = [
    "UNGRADED",
    "AttentionSupervisionLoss",
    "CrossModalContrastiveLoss",
    "HardExampleDiceCELoss",
    "HardnessWeightedDiceLoss",
    "IgnoreLabelLoss",
    "KSpaceLoss",
    "KoosPretrainingLoss",
    "PatchNCELoss",
    "PerceptualLoss",
    "SupConLoss",
    "WeightedDiceLoss",
    "load_perceptual_loss",
    "load_perceptual_loss_or_exit",
]
