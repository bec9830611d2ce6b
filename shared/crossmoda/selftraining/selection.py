"""Which cases' pseudo-labels train the student: interchangeable rules over all cases' scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from crossmoda.selftraining.priors import LabelPriors
from crossmoda.selftraining.scores import CaseScores

# Makes the median absolute deviation an estimate of the standard deviation of a normal distribution.
MAD_TO_SD = 1.4826

# phantom: what right labels have, at least; a tumour's brightness differs most.
LEAST_SPREAD = {"contrast_cochlea": 0.075, "heterogeneity_VS": 0.075, "brightness_VS": 0.2}

# The way in which a number of `measure_contrast` is worse.
_WORSE = {"contrast_cochlea": "low", "heterogeneity_VS": "high", "brightness_VS": "high"}


class SelectionRule(ABC):
    """Keeps or rejects cases. A rule rejects a case in which it can't measure what it judges, e.g. for want of VS."""

    @abstractmethod
    def judge(self, cases: Sequence[CaseScores]) -> dict[str, str]:
        """Judge all cases together.

        Args:
            cases: every target case's scores, in any order.

        Returns:
            Case to the reason why it is rejected, "" if it is kept; in the order of `cases`.
        """


class SelectAll(SelectionRule):
    """Keeps the cases that every rule keeps, and joins the reasons of those that do not. Without rules it keeps all.

    Args:
        rules: each judges all cases, not only those that the rules before it keep.
    """

    def __init__(self, rules: Sequence[SelectionRule] = ()) -> None:
        self.rules = tuple(rules)

    def judge(self, cases: Sequence[CaseScores]) -> dict[str, str]:
        """Judge all cases together, see `SelectionRule`."""
        verdicts = [rule.judge(cases) for rule in self.rules]
        return {scores.case: "; ".join(v[scores.case] for v in verdicts if v[scores.case]) for scores in cases}


class AtLeast(SelectionRule):
    """Rejects cases of which one of some numbers is below a limit.

    With `confidence_foreground` it is Chen 2023's maximum probability threshold (step 3), read as a mean over the
    predicted foreground of a case; with `agreement_VS` and `agreement_cochlea`, agreement of members or flips.

    Args:
        names: names of the scores.
        minimum: least value that is kept.
    """

    def __init__(self, names: Sequence[str], minimum: float) -> None:
        self.names = tuple(names)
        self.minimum = minimum

    def judge(self, cases: Sequence[CaseScores]) -> dict[str, str]:
        """Judge all cases together, see `SelectionRule`."""
        return {
            scores.case: _reasons(scores, self.names, lambda _, value: value < self.minimum, f"< {self.minimum:g}")
            for scores in cases
        }


class AtMost(SelectionRule):
    """Rejects cases of which one of some numbers is above a limit: with `entropy`, uncertain ones (ours).

    Args:
        names: names of the scores.
        maximum: greatest value that is kept.
    """

    def __init__(self, names: Sequence[str], maximum: float) -> None:
        self.names = tuple(names)
        self.maximum = maximum

    def judge(self, cases: Sequence[CaseScores]) -> dict[str, str]:
        """Judge all cases together, see `SelectionRule`."""
        return {
            scores.case: _reasons(scores, self.names, lambda _, value: value > self.maximum, f"> {self.maximum:g}")
            for scores in cases
        }


class TopShare(SelectionRule):
    """Keeps the cases that are among the best share for every class (PAST 2022, there of pixels; here of cases).

    It needs no absolute limit, so that it also keeps cases of a teacher whose confidences are all low. If the classes
    disagree on the order, fewer than the share are kept.

    Args:
        share: of the cases that are kept for each class, in (0, 1]; rounded up. PAST 2022: 0.6 at start.
        names: names of the scores that are ranked, greater is better.

    Raises:
        ValueError: if the share is not in (0, 1].
    """

    def __init__(self, share: float = 0.6, names: Sequence[str] = ("confidence_VS", "confidence_cochlea")) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share must be in (0, 1], got {share}")
        self.share = share
        self.names = tuple(names)

    def judge(self, cases: Sequence[CaseScores]) -> dict[str, str]:
        """Judge all cases together, see `SelectionRule`."""
        count = int(np.ceil(self.share * len(cases) - 1e-9))
        limits = {name: _nth_best([_value(scores, name) for scores in cases], count) for name in self.names}
        text = f"not in the top {self.share:.0%}"
        return {
            scores.case: _reasons(scores, self.names, lambda name, value: value < limits[name], text)
            for scores in cases
        }


class Plausible(SelectionRule):
    """Rejects label maps whose anatomy no source label has: volumes, number of components, distances (2023 winner).

    The winner keeps pseudo-labels that pass a connected-component check, without saying which; limits learned from
    the source labels are ours. They widen, because target cases are others than the source's.

    Args:
        priors: learned from source labels, or the JSON that holds them; read when cases are judged.
        quantile: the limits are this quantile and its counterpart.
        volume_factor: volumes may be smaller or larger by this factor.
        distance_mm: distances may be shorter or longer by this.
        rare: a distance that less than this share of the source labels lack must be there (e.g. one cochlea only).
    """

    def __init__(
        self,
        priors: LabelPriors | str | Path,
        quantile: float = 0.0,
        volume_factor: float = 1.5,
        distance_mm: float = 3.0,
        rare: float = 0.05,
    ) -> None:
        self.priors = priors
        self.quantile = quantile
        self.volume_factor = volume_factor
        self.distance_mm = distance_mm
        self.rare = rare

    def judge(self, cases: Sequence[CaseScores]) -> dict[str, str]:
        """Judge all cases together, see `SelectionRule`.

        Raises:
            InputError: if the priors can't be read.
        """
        priors = self.priors if isinstance(self.priors, LabelPriors) else LabelPriors.load(self.priors)
        limits = {name: self._limits(priors, name) for name in priors.values}
        return {scores.case: self._reason(scores, priors, limits) for scores in cases}

    def _limits(self, priors: LabelPriors, name: str) -> tuple[float, float] | None:
        bounds = priors.bounds(name, self.quantile)
        if bounds is None:
            return None
        low, high = bounds
        if name.startswith("volume"):
            return low / self.volume_factor, high * self.volume_factor
        if name.startswith("distance"):
            return low - self.distance_mm, high + self.distance_mm
        return low, high

    def _reason(self, scores: CaseScores, priors: LabelPriors, limits: Mapping[str, tuple[float, float] | None]) -> str:
        reasons = []
        for name, bounds in limits.items():
            value = _value(scores, name)
            if value is None:
                if priors.share_measured(name) > 1 - self.rare:
                    reasons.append(f"{name} can't be measured")
            elif bounds is not None and not bounds[0] <= value <= bounds[1]:
                reasons.append(f"{name} {value:.4g} outside {bounds[0]:.4g} to {bounds[1]:.4g}")
        return "; ".join(reasons)


class Contrast(SelectionRule):
    """Rejects label maps that fit their scan worse than most others fit theirs (ours).

    It catches a teacher that marks the wrong place in a minority of cases, e.g. the wrong side, with confidence and
    in a plausible shape: only the scan tells. A number is rejected if it lies more than `limit` robust standard
    deviations on its bad side of the median of its site's cases (modified z-score, Iglewicz and Hoaglin 1993), or
    beyond `worst`, which also holds where most cases are wrong.

    Args:
        limit: Iglewicz and Hoaglin: 3.5.
        least_spread: score to its least robust standard deviation; without it a cohort of nearly equal numbers, or a
            small one, would reject harmless members. None takes `LEAST_SPREAD`.
        worst: score to its worst value that is kept, with the cochlea no brighter than what is around it, and a tumour
            as mixed as what is around it, by default.
        least_cases: sites of fewer cases are judged among all cases, and with fewer cases in all only `worst` counts.
    """

    def __init__(
        self,
        limit: float = 3.5,
        least_spread: Mapping[str, float] | None = None,
        worst: Mapping[str, float] | None = None,
        least_cases: int = 5,
    ) -> None:
        self.limit = limit
        self.least_spread = dict(LEAST_SPREAD) if least_spread is None else dict(least_spread)
        self.worst = {"contrast_cochlea": 0.0, "heterogeneity_VS": 1.0} if worst is None else dict(worst)
        self.least_cases = least_cases

    def judge(self, cases: Sequence[CaseScores]) -> dict[str, str]:
        """Judge all cases together, see `SelectionRule`."""
        sites = defaultdict(list)
        for scores in cases:
            sites[scores.site].append(scores)
        reasons: dict[str, list[str]] = {scores.case: [] for scores in cases}
        for name, worse in _WORSE.items():
            for members in sites.values():
                cohort = members if len(members) >= self.least_cases else cases
                bound = self._bound([_value(scores, name) for scores in cohort], name, worse)
                for scores in members:
                    reasons[scores.case] += _beyond(scores, name, worse, bound)
        return {case: "; ".join(found) for case, found in reasons.items()}

    def _bound(self, values: Sequence[float | None], name: str, worse: str) -> float:
        """The worst value that is kept."""
        sign = 1 if worse == "high" else -1
        bounds = [sign * self.worst[name]] if name in self.worst else []
        known = np.array([value for value in values if value is not None], dtype=float)
        if known.size >= self.least_cases:
            median = np.median(known)
            spread = max(MAD_TO_SD * float(np.median(np.abs(known - median))), self.least_spread.get(name, 0.0))
            bounds.append(sign * float(median) + self.limit * spread)
        return sign * min(bounds, default=float("inf"))


def _beyond(scores: CaseScores, name: str, worse: str, bound: float) -> list[str]:
    value = _value(scores, name)
    if value is None:
        return [f"{name} can't be measured"]
    if value > bound if worse == "high" else value < bound:
        return [f"{name} {value:.3g} {'>' if worse == 'high' else '<'} {bound:.3g}"]
    return []


def _reasons(scores: CaseScores, names: Sequence[str], is_bad: Callable[[str, float], bool], text: str) -> str:
    """Why a case fails, one reason a number; a number that is missing fails."""
    reasons = []
    for name in names:
        value = _value(scores, name)
        if value is None:
            reasons.append(f"{name} can't be measured")
        elif is_bad(name, value):
            reasons.append(f"{name} {value:.3f} {text}")
    return "; ".join(reasons)


def _value(scores: CaseScores, name: str) -> float | None:
    """A score; None if it is missing or not finite, so that no comparison lets NaN pass."""
    value = scores.values.get(name)
    return value if value is not None and np.isfinite(value) else None


def _nth_best(values: Sequence[float | None], count: int) -> float:
    known = sorted((value for value in values if value is not None), reverse=True)
    return known[min(count, len(known)) - 1] if known and count else float("inf")
