from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import entropy
from selftraining_cases import THREE, evidence, head, one_hot

from crossmoda.selftraining import CaseScores, score_case


def _row(labels: list[int], confidences: list[float]) -> np.ndarray:
    """Probabilities of a row of voxels."""
    columns = [one_hot(np.array([[[label]]]), p) for label, p in zip(labels, confidences, strict=True)]
    return np.concatenate(columns, axis=-1)


def test_confidence_is_the_mean_over_what_is_predicted():
    probabilities = _row([0, 1, 1, 2, 0], [0.99, 0.8, 0.6, 0.9, 0.4])
    values = score_case(evidence(np.zeros((1, 1, 5)), probabilities=probabilities)).values
    assert values["confidence_VS"] == pytest.approx(0.7)
    assert values["confidence_cochlea"] == pytest.approx(0.9)
    assert values["confidence_foreground"] == pytest.approx(2.3 / 3)


def test_confidence_of_vs_counts_its_parts_together():
    probabilities = np.array([0.1, 0.5, 0.3, 0.1], np.float32).reshape(4, 1, 1, 1)
    values = score_case(evidence(np.zeros((1, 1, 1)), probabilities=probabilities, classes=THREE)).values
    assert values["confidence_VS"] == pytest.approx(0.8)
    assert values["confidence_extra"] == pytest.approx(0.5)
    assert values["confidence_foreground"] == pytest.approx(0.5)
    assert values["confidence_intra"] is None


def test_entropy_is_that_of_possible_foreground():
    # Two voxels in which foreground is possible, far from each other; the others near are sure background.
    probabilities = np.zeros((3, 1, 1, 9), np.float32)
    probabilities[0] = 1
    probabilities[:, 0, 0, 1] = [0.2, 0.7, 0.1]
    probabilities[:, 0, 0, 6] = [0.85, 0.05, 0.1]  # a tumour not quite found
    values = score_case(evidence(np.zeros((1, 1, 9)), probabilities=probabilities)).values
    expected = (entropy([0.2, 0.7, 0.1]) + entropy([0.85, 0.05, 0.1])) / np.log(3) / 6  # with a neighbour at each side
    assert values["entropy"] == pytest.approx(expected, abs=1e-6)


def test_agreement_is_the_mean_dice_of_pairs():
    views = tuple(
        np.array(row, np.uint8).reshape(1, 1, 6) for row in ([1, 1, 0, 0, 2, 2], [1, 0, 0, 0, 2, 2], [0, 1, 1, 0, 2, 2])
    )
    values = score_case(evidence(np.zeros((1, 1, 6), np.uint8), views=views)).values
    assert values["agreement_VS"] == pytest.approx((2 / 3 + 2 / 4 + 0) / 3)
    assert values["agreement_cochlea"] == 1


@pytest.mark.parametrize("count", [0, 1, 3])
def test_agreement_that_can_not_be_measured(count):
    labels = np.zeros((1, 1, 4), np.uint8)
    labels[..., 0] = 2
    values = score_case(evidence(labels, views=(labels,) * count)).values
    assert values["agreement_VS"] is None  # nobody marks one
    assert values["agreement_cochlea"] == (1 if count > 1 else None)


def test_one_empty_view_does_not_agree():
    labels = np.zeros((1, 1, 4), np.uint8)
    labels[..., 0] = 1
    values = score_case(evidence(labels, views=(labels, np.zeros_like(labels)))).values
    assert values["agreement_VS"] == 0


def test_empty_prediction():
    values = score_case(evidence(np.zeros((8, 8, 8), np.uint8), np.ones((8, 8, 8)))).values
    unknown = {name for name, value in values.items() if value is None}
    counted = {"volume_VS", "volume_cochlea", "components_VS", "components_cochlea"}
    assert set(values) - unknown == counted
    assert all(values[name] == 0 for name in counted)


def test_broken_probabilities():
    labels, image = head()
    broken = evidence(labels, image, probabilities=np.full((3, *labels.shape), np.nan, np.float32))
    values = score_case(broken).values
    assert values["volume_VS"] == 0
    assert values["confidence_foreground"] is None
    assert values["entropy"] == pytest.approx(1)
    probabilities = one_hot(labels)
    probabilities[:, 15, 11, 5] = np.nan  # one voxel of the tumour
    values = score_case(evidence(labels, image, probabilities=probabilities)).values
    assert values["volume_VS"] == (labels == 1).sum() - 1
    assert values["confidence_VS"] == 1
    assert np.isfinite([value for value in values.values() if value is not None]).all()


def test_anatomy_may_be_that_of_cleaned_labels():
    labels, image = head()
    cleaned = np.where(labels == 1, 0, labels).astype(np.uint8)
    values = score_case(evidence(labels, image), cleaned).values
    assert values["volume_VS"] == 0
    assert values["heterogeneity_VS"] is None
    assert values["confidence_VS"] == 1  # the teacher's


def test_json_round_trip():
    labels, image = head()
    scores = score_case(evidence(labels, image, case="etz_1", site="etz", views=(labels, labels)))
    assert CaseScores(**json.loads(json.dumps(scores.to_json(), allow_nan=False))) == scores
    assert (scores.case, scores.site) == ("etz_1", "etz")
