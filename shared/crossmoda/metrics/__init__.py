"""Metrics of the challenge and of translations, their summaries, and comparisons of systems."""

from crossmoda.metrics.comparison import gap_closed, paired_test
from crossmoda.metrics.grades import constant_guesses, grade_metrics, macro_error
from crossmoda.metrics.measures import EMPTY_ASSD_MM, assd, dice_per_class
from crossmoda.metrics.parts import BOUNDARY, evaluate_parts, has_parts, part_boundary
from crossmoda.metrics.segmentation import (
    METRICS,
    evaluate,
    evaluate_cases,
    evaluate_or_exit,
    evaluate_pair,
    read_metrics,
    summarise,
    write_metrics,
)
from crossmoda.metrics.size import Growth, TumourSize, growth, tumour_size
from crossmoda.metrics.slices import edge_agreement, slice_flicker, structure_contrast
from crossmoda.metrics.translation import compare_sets, evaluate_translations, evaluate_translations_or_exit, judge_case

__all__ = [
    "BOUNDARY",
    "EMPTY_ASSD_MM",
    "METRICS",
    "Growth",
    "TumourSize",
    "assd",
    "compare_sets",
    "constant_guesses",
    "dice_per_class",
    "edge_agreement",
    "evaluate",
    "evaluate_cases",
    "evaluate_or_exit",
    "evaluate_pair",
    "evaluate_parts",
    "evaluate_translations",
    "evaluate_translations_or_exit",
    "gap_closed",
    "grade_metrics",
    "growth",
    "has_parts",
    "judge_case",
    "macro_error",
    "paired_test",
    "part_boundary",
    "read_metrics",
    "slice_flicker",
    "structure_contrast",
    "summarise",
    "tumour_size",
    "write_metrics",
]
