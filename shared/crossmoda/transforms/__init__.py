"""Transforms and slice datasets that MONAI lacks."""

from crossmoda.transforms.bias_field import N4BiasFieldCorrectiond
from crossmoda.transforms.clahe import RandMultiDimensionalCLAHEd
from crossmoda.transforms.crops import (
    CentreShareCropd,
    FixedPatchCropd,
    PadToSquared,
    PercentileCentreCropd,
    fixed_patch_affine,
)
from crossmoda.transforms.deflicker import SmoothSliceIntensityd
from crossmoda.transforms.elastic import RandControlPointElasticd
from crossmoda.transforms.foreground_crop import RandForegroundCropd
from crossmoda.transforms.histogram_matching import HistogramMatchingd
from crossmoda.transforms.incomplete import RandIncompleteImaged
from crossmoda.transforms.label_intensity import LabelVolumesd, RandLabelIntensityd
from crossmoda.transforms.low_resolution import RandLowResolutiond
from crossmoda.transforms.non_local_means import NonLocalMeansd
from crossmoda.transforms.nonzero import nonzero_region
from crossmoda.transforms.region_intensity import RandRegionIntensityd
from crossmoda.transforms.rotate_scale import RandRotateScaled, rotation_margin
from crossmoda.transforms.slice_intensity import ScaleSliceIntensityd
from crossmoda.transforms.spline_spacing import SplineSpacing, SplineSpacingd
from crossmoda.transforms.structures import AddStructuresd
from crossmoda.transforms.tumour_crop import RandTumourCropd, TumourCropd
from crossmoda.transforms.unpaired_slices import (
    RandUnpairedSlice,
    UnpairedSlices,
    ValidationSlices,
    unpaired_slices_or_exit,
    validation_slices_or_exit,
)

__all__ = [
    "AddStructuresd",
    "CentreShareCropd",
    "FixedPatchCropd",
    "HistogramMatchingd",
    "LabelVolumesd",
    "N4BiasFieldCorrectiond",
    "NonLocalMeansd",
    "PadToSquared",
    "PercentileCentreCropd",
    "RandControlPointElasticd",
    "RandForegroundCropd",
    "RandIncompleteImaged",
    "RandLabelIntensityd",
    "RandLowResolutiond",
    "RandMultiDimensionalCLAHEd",
    "RandRegionIntensityd",
    "RandRotateScaled",
    "RandTumourCropd",
    "RandUnpairedSlice",
    "ScaleSliceIntensityd",
    "SmoothSliceIntensityd",
    "SplineSpacing",
    "SplineSpacingd",
    "TumourCropd",
    "UnpairedSlices",
    "ValidationSlices",
    "fixed_patch_affine",
    "nonzero_region",
    "rotation_margin",
    "unpaired_slices_or_exit",
    "validation_slices_or_exit",
]
