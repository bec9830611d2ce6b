"""Losses that MONAI lacks."""

from crossmoda.losses.kspace import KSpaceLoss
from crossmoda.losses.weighted_dice import WeightedDiceLoss

__all__ = ["KSpaceLoss", "WeightedDiceLoss"]
