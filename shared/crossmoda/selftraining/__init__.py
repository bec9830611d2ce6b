"""Self-training: pseudo-labels of real hrT2 scans, their selection, and rounds of students."""

from crossmoda.selftraining.cleaning import (
    CleaningRule,
    CochleaByContrast,
    Components,
    FillHoles,
    IntraMeatalByContrast,
    clean,
)
from crossmoda.selftraining.evidence import CaseEvidence, to_labels
from crossmoda.selftraining.measures import measure_anatomy, measure_contrast
from crossmoda.selftraining.priors import LabelPriors, learn_priors
from crossmoda.selftraining.pseudo_label import make_pseudo_label
from crossmoda.selftraining.scores import CaseScores, score_case
from crossmoda.selftraining.selection import (
    AtLeast,
    AtMost,
    Contrast,
    Plausible,
    SelectAll,
    SelectionRule,
    TopShare,
)
from crossmoda.selftraining.spoiling import MirrorSome
from crossmoda.selftraining.voxels import (
    BorderBand,
    ChangedByCleaning,
    Disagreement,
    LowConfidence,
    TopVoxelShare,
    VoxelRule,
    ignored_voxels,
)

__all__ = [
    "AtLeast",
    "AtMost",
    "BorderBand",
    "CaseEvidence",
    "CaseScores",
    "ChangedByCleaning",
    "CleaningRule",
    "CochleaByContrast",
    "Components",
    "Contrast",
    "Disagreement",
    "FillHoles",
    "IntraMeatalByContrast",
    "LabelPriors",
    "LowConfidence",
    "MirrorSome",
    "Plausible",
    "SelectAll",
    "SelectionRule",
    "TopShare",
    "TopVoxelShare",
    "VoxelRule",
    "clean",
    "ignored_voxels",
    "learn_priors",
    "make_pseudo_label",
    "measure_anatomy",
    "measure_contrast",
    "score_case",
    "to_labels",
]
