"""Transforms and slice datasets that MONAI lacks."""

from crossmoda.transforms.clahe import RandMultiDimensionalCLAHEd
from crossmoda.transforms.elastic import RandControlPointElasticd
from crossmoda.transforms.label_intensity import RandLabelIntensityd
from crossmoda.transforms.unpaired_slices import RandUnpairedSlice, UnpairedSlices, ValidationSlices

__all__ = [
    "RandControlPointElasticd",
    "RandLabelIntensityd",
    "RandMultiDimensionalCLAHEd",
    "RandUnpairedSlice",
    "UnpairedSlices",
    "ValidationSlices",
]
