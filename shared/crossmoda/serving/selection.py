"""Active learning: which scan a person should label next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def case_uncertainty(report: Mapping[str, Any]) -> float:
    """How unsure a segmentation is.

    Args:
        report: of `crossmoda.uncertainty.case_report`.

    Returns:
        In [0, 1]: the greater of the predictive entropy and of what the members' agreement (mean pairwise Dice, of the
        structure they agree least on) lacks to 1. A scan in which nothing was found has neither and gives 1.
    """
    if report["entropy"] is None:
        return 1.0
    agreement = report["agreement"] or {}
    return max([report["entropy"], *(1 - dice for dice in agreement.values())])


def next_case(uncertainties: Mapping[str, float], shown: Mapping[str, float]) -> str:
    """The scan to label next.

    Args:
        uncertainties: scan to its `case_uncertainty`, at least one.
        shown: scan to the time it was last proposed, for those that were; a person who asks again has passed it over.

    Returns:
        The most uncertain scan that was not proposed yet; once all were, the one whose turn is longest ago.
    """
    return min(uncertainties, key=lambda case: (shown.get(case, 0), -uncertainties[case], case))
