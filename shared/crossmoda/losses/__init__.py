"""Losses that MONAI lacks."""

from crossmoda.losses.hard_example import HardExampleDiceCELoss
from crossmoda.losses.kspace import KSpaceLoss
from crossmoda.losses.patch_nce import PatchNCELoss
from crossmoda.losses.perceptual import PerceptualLoss, load_perceptual_loss, load_perceptual_loss_or_exit
from crossmoda.losses.weighted_dice import WeightedDiceLoss

__all__ = [
    "HardExampleDiceCELoss",
    "KSpaceLoss",
    "PatchNCELoss",
    "PerceptualLoss",
    "WeightedDiceLoss",
    "load_perceptual_loss",
    "load_perceptual_loss_or_exit",
]
