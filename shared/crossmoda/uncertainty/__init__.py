"""How far a segmentation can be relied on: entropy, agreement, and likeness to the training data."""

from crossmoda.uncertainty.case_report import FLAGS, SaveCaseReportd, Thresholds, case_report, write_report
from crossmoda.uncertainty.measures import class_groups, pairwise_dice, predictive_entropy, sides_without, volumes_ml
from crossmoda.uncertainty.reference import (
    read_reference,
    read_reference_or_exit,
    scan_features,
    summarise_features,
    unlike_training,
    write_reference,
    write_reference_or_exit,
)

__all__ = [
    "FLAGS",
    "SaveCaseReportd",
    "Thresholds",
    "case_report",
    "class_groups",
    "pairwise_dice",
    "predictive_entropy",
    "read_reference",
    "read_reference_or_exit",
    "scan_features",
    "sides_without",
    "summarise_features",
    "unlike_training",
    "volumes_ml",
    "write_reference",
    "write_reference_or_exit",
    "write_report",
]
