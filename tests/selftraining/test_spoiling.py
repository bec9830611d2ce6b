"""Labels spoilt on purpose: which, how, and that the rules that judge contrast find them."""

from __future__ import annotations

import numpy as np
import pytest
from selftraining_cases import evidence, head

from crossmoda.selftraining import Contrast, MirrorSome, clean, score_case

ROTATED = np.array([[0, 1.0, 0, 0], [-1.0, 0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]])  # left-right is the second axis


@pytest.mark.parametrize(("affine", "axis"), [(np.eye(4), 0), (ROTATED, 1)])
def test_mirrors_left_and_right_of_the_patient(affine, axis):
    labels, _ = head()
    mirrored = MirrorSome(1.0)(labels, evidence(labels, affine=affine))
    assert np.array_equal(mirrored, np.flip(labels, axis))
    assert not np.array_equal(mirrored, labels)


def test_share_of_the_cases():
    labels = np.zeros((3, 2, 2), np.uint8)
    labels[0] = 1

    def mirrored(rule):
        cases = [evidence(labels, case=f"case_{number}") for number in range(500)]
        return [not np.array_equal(rule(labels, case), labels) for case in cases]

    first = mirrored(MirrorSome(0.2))
    assert 0.15 < np.mean(first) < 0.25
    assert mirrored(MirrorSome(0.2)) == first
    assert mirrored(MirrorSome(0.2, seed=1)) != first
    assert not any(mirrored(MirrorSome(0.0)))


def test_contrast_tells_them_from_the_others():
    rule, scores, spoilt = MirrorSome(0.2, seed=1), [], set()
    for number in range(20):
        labels, image = head(seed=number)
        case = evidence(labels, image, case=f"case_{number}", site="ldn")
        cleaned = clean([rule], case.labels, case)
        if not np.array_equal(cleaned, labels):
            spoilt.add(case.case)
        scores.append(score_case(case, cleaned))
    verdicts = Contrast().judge(scores)
    assert 2 <= len(spoilt) <= 8
    assert {case for case, reason in verdicts.items() if reason} == spoilt
