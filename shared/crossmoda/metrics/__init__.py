"""Metrics of the challenge, their summaries, and comparisons of systems."""

from crossmoda.metrics.comparison import gap_closed, paired_test
from crossmoda.metrics.segmentation import (
    EMPTY_ASSD_MM,
    METRICS,
    assd,
    dice_per_class,
    evaluate,
    evaluate_cases,
    evaluate_or_exit,
    evaluate_pair,
    read_metrics,
    summarise,
    write_metrics,
)

__all__ = [
    "EMPTY_ASSD_MM",
    "METRICS",
    "assd",
    "dice_per_class",
    "evaluate",
    "evaluate_cases",
    "evaluate_or_exit",
    "evaluate_pair",
    "gap_closed",
    "paired_test",
    "read_metrics",
    "summarise",
    "write_metrics",
]
