from __future__ import annotations

import numpy as np
import pytest
from selftraining_cases import TWO, evidence, head

from crossmoda.errors import InputError
from crossmoda.selftraining import (
    AtLeast,
    AtMost,
    CaseScores,
    Contrast,
    LabelPriors,
    Plausible,
    SelectAll,
    TopShare,
    measure_anatomy,
    score_case,
)


def _cases(**values: list[float | None]) -> list[CaseScores]:
    """Cases "0", "1", ... with the scores given as columns."""
    rows = zip(*values.values(), strict=True)
    return [CaseScores(str(number), values=dict(zip(values, row, strict=True))) for number, row in enumerate(rows)]


def _kept(verdict: dict[str, str]) -> list[str]:
    return [case for case, reason in verdict.items() if not reason]


def test_at_least_keeps_the_limit_itself():
    verdict = AtLeast(["confidence_foreground"], 0.9).judge(_cases(confidence_foreground=[0.95, 0.9, 0.899]))
    assert verdict == {"0": "", "1": "", "2": "confidence_foreground 0.899 < 0.9"}


def test_at_most_keeps_the_limit_itself():
    verdict = AtMost(["entropy"], 0.4).judge(_cases(entropy=[0.1, 0.4, 0.41]))
    assert verdict == {"0": "", "1": "", "2": "entropy 0.410 > 0.4"}


def test_each_number_must_pass():
    cases = _cases(agreement_VS=[0.9, 0.5, 0.5], agreement_cochlea=[0.9, 0.9, 0.6])
    verdict = AtLeast(["agreement_VS", "agreement_cochlea"], 0.7).judge(cases)
    assert verdict["1"] == "agreement_VS 0.500 < 0.7"
    assert verdict["2"] == "agreement_VS 0.500 < 0.7; agreement_cochlea 0.600 < 0.7"


@pytest.mark.parametrize(
    "rule",
    [
        AtLeast(["score"], 0.0),
        AtMost(["score"], 1.0),
        TopShare(1.0, ["score"]),
    ],
)
@pytest.mark.parametrize("value", [None, np.nan])
def test_what_can_not_be_measured_is_rejected(rule, value):
    assert rule.judge(_cases(score=[0.5, value])) == {"0": "", "1": "score can't be measured"}
    assert rule.judge([CaseScores("0")]) == {"0": "score can't be measured"}
    assert rule.judge([]) == {}


def test_top_share_by_hand():
    cases = _cases(confidence_VS=[0.5, 0.9, 0.7, 0.8, 0.6], confidence_cochlea=[0.9, 0.9, 0.1, 0.8, 0.7])
    verdict = TopShare(0.6).judge(cases)
    assert verdict == {
        "0": "confidence_VS 0.500 not in the top 60%",
        "1": "",
        "2": "confidence_cochlea 0.100 not in the top 60%",
        "3": "",
        "4": "confidence_VS 0.600 not in the top 60%; confidence_cochlea 0.700 not in the top 60%",
    }


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.95, 1.0])
def test_top_share_counts(share):
    values = np.random.default_rng(3).random(20)
    kept = _kept(TopShare(share, ["score"]).judge(_cases(score=values.tolist())))
    best = np.argsort(values)[::-1][: int(np.ceil(round(share * 20, 6)))]
    assert sorted(kept) == sorted(map(str, best))


def test_top_share_keeps_equals_and_counts_the_missing():
    assert _kept(TopShare(0.5, ["score"]).judge(_cases(score=[0.7, 0.7, 0.7, 0.1]))) == ["0", "1", "2"]
    # Half of four cases are two, both of which can be measured.
    assert _kept(TopShare(0.5, ["score"]).judge(_cases(score=[None, None, 0.2, 0.1]))) == ["2", "3"]


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_top_share_refuses_other_shares(share):
    with pytest.raises(ValueError, match="share"):
        TopShare(share)


def test_select_all_joins_reasons():
    cases = _cases(confidence_foreground=[0.95, 0.5, 0.95, 0.5], entropy=[0.1, 0.1, 0.9, 0.9])
    rules = [AtLeast(["confidence_foreground"], 0.9), AtMost(["entropy"], 0.4)]
    verdict = SelectAll(rules).judge(cases)
    assert _kept(verdict) == ["0"]
    assert verdict["3"] == "confidence_foreground 0.500 < 0.9; entropy 0.900 > 0.4"
    assert set(_kept(SelectAll().judge(cases))) == {"0", "1", "2", "3"}
    assert set(_kept(verdict)) == set.intersection(*(set(_kept(rule.judge(cases))) for rule in rules))


class TestPlausible:
    @pytest.fixture
    def priors(self):
        return LabelPriors.of(measure_anatomy(head()[0], np.eye(4), TWO) for _ in range(3))

    def _judge(self, labels, priors, **kwargs):
        return Plausible(priors, **kwargs).judge([score_case(evidence(labels))])["case"]

    def test_keeps_what_the_source_has(self, priors):
        assert self._judge(head()[0], priors) == ""

    def test_two_tumours(self, priors):
        labels = head()[0]
        labels[24:29, 10:14, 4:8] = 1
        assert self._judge(labels, priors, volume_factor=3) == "components_VS 2 outside 1 to 1"

    def test_specks_are_no_components(self, priors):
        labels = head()[0]
        labels[25, 10, 4] = 1
        assert self._judge(labels, priors) == ""

    def test_one_cochlea(self, priors):
        labels = head()[0]
        labels[30:] = 0
        reason = self._judge(labels, priors, volume_factor=3)
        assert reason == "components_cochlea 1 outside 2 to 2; distance_cochleae can't be measured"

    def test_one_cochlea_where_the_source_has_that_too(self):
        one_sided = head()[0]
        one_sided[30:] = 0
        priors = LabelPriors.of(measure_anatomy(labels, np.eye(4), TWO) for labels in (head()[0], one_sided))
        assert self._judge(one_sided, priors) == ""

    def test_two_cochleae_on_one_side(self, priors):
        labels = head()[0]
        labels[32:35, 14:17, 5:8] = 0
        labels[6:9, 16:19, 5:8] = 2
        assert "distance_cochleae 6 outside 23.31 to 29.31" in self._judge(labels, priors)

    def test_tumour_far_from_the_cochlea(self, priors):
        labels = head()[0]
        labels[labels == 1] = 0
        labels[18:23, 0:4, 4:8] = 1
        near = priors.values["distance_VS_cochlea"][0]
        far = measure_anatomy(labels, np.eye(4), TWO)["distance_VS_cochlea"]
        reason = self._judge(labels, priors)
        assert reason == f"distance_VS_cochlea {far:.4g} outside {near - 3:.4g} to {near + 3:.4g}"
        assert self._judge(labels, priors, distance_mm=far - near + 0.01) == ""

    @pytest.mark.parametrize(("grow", "kept"), [(0, True), (2, True), (3, False)])
    def test_volume(self, priors, grow, kept):
        # 5 x 4 x 4 voxels, and 4 x 4 more a step: a factor of 1.4 and 1.6.
        labels = head()[0]
        labels[19 : 19 + grow, 10:14, 4:8] = 1
        assert (self._judge(labels, priors) == "") == kept

    def test_nothing_predicted(self, priors):
        reason = self._judge(np.zeros((40, 24, 12), np.uint8), priors)
        assert "volume_VS 0 outside" in reason
        assert "components_cochlea 0 outside" in reason

    def test_priors_may_be_a_file_that_comes_later(self, priors, tmp_path):
        rule = Plausible(tmp_path / "priors.json")
        cases = [score_case(evidence(head()[0]))]
        with pytest.raises(InputError, match="can't be read"):
            rule.judge(cases)
        priors.save(tmp_path / "priors.json")
        assert rule.judge(cases) == {"case": ""}

    def test_mirrored_labels_are_plausible(self, priors):
        assert self._judge(head(mirrored=True)[0], priors) == ""  # only the scan can tell: `Contrast`


class TestContrast:
    def _cohort(self, mirrored: set[int], count: int = 10, site: str = "") -> list[CaseScores]:
        cases = []
        for seed in range(count):
            labels, image = head(seed in mirrored, seed)
            cases.append(score_case(evidence(labels, image, case=f"{site}{seed}", site=site)))
        return cases

    def test_catches_labels_on_the_wrong_side(self):
        verdict = Contrast().judge(self._cohort({2, 7}))
        assert set(verdict) - set(_kept(verdict)) == {"2", "7"}
        assert "contrast_cochlea" in verdict["2"]
        assert "brightness_VS" in verdict["2"]

    def test_keeps_all_of_a_good_teacher(self):
        assert len(_kept(Contrast().judge(self._cohort(set())))) == 10

    def test_limit_is_the_modified_z_score(self):
        values = [0.80, 0.82, 0.84, 0.86, 0.90, 0.70, 0.50]
        others = {"heterogeneity_VS": [0.2] * 7, "brightness_VS": [-0.5] * 7}
        verdict = Contrast(least_spread={}).judge(_cases(contrast_cochlea=values, **others))
        median = np.median(values)
        mad = np.median(np.abs(np.array(values) - median))
        rejected = {str(n) for n, value in enumerate(values) if 0.6745 * (median - value) / mad > 3.5}
        assert rejected == {"6"}
        assert set(verdict) - set(_kept(verdict)) == rejected

    def test_only_the_bad_side_counts(self):
        columns = {"contrast_cochlea": [0.5] * 6 + [1.0], "heterogeneity_VS": [0.6] * 6 + [0.05]}
        cases = _cases(**columns, brightness_VS=[0.0] * 6 + [-1.0])
        assert len(_kept(Contrast().judge(cases))) == 7

    def test_nearly_equal_numbers_reject_no_one(self):
        values = [0.9, 0.9, 0.9, 0.9, 0.9, 0.89]
        cases = _cases(contrast_cochlea=values, heterogeneity_VS=[0.2] * 6, brightness_VS=[-0.5] * 6)
        assert len(_kept(Contrast().judge(cases))) == 6
        assert len(_kept(Contrast(least_spread={"contrast_cochlea": 1e-6}).judge(cases))) == 5

    def test_worst_holds_where_most_are_wrong(self):
        verdict = Contrast().judge(
            _cases(
                contrast_cochlea=[-0.1, -0.2, -0.1, -0.2, 0.1, 0.9],
                heterogeneity_VS=[0.9] * 6,
                brightness_VS=[0.0] * 6,
            )
        )
        assert _kept(verdict) == ["4", "5"]
        assert verdict["0"] == "contrast_cochlea -0.1 < 0"

    def test_few_cases_have_no_cohort(self):
        cases = self._cohort({3}, count=4)
        strict = Contrast(worst={"brightness_VS": 0.0})
        assert _kept(strict.judge(cases)) == ["0", "1", "2"]
        assert len(_kept(Contrast(worst={}).judge(cases))) == 4

    def test_sites_have_their_own_median(self):
        dull = [0.3, 0.31, 0.32, 0.3, 0.31, 0.32]
        bright = [0.9, 0.92, 0.91, 0.9, 0.92, 0.35]
        cases = [
            CaseScores(f"{site}{n}", site, {"contrast_cochlea": v, "heterogeneity_VS": 0.2, "brightness_VS": -0.5})
            for site, values in (("ldn", bright), ("etz", dull))
            for n, v in enumerate(values)
        ]
        assert {c.case for c in cases} - set(_kept(Contrast().judge(cases))) == {"ldn5"}
        # A site of too few cases is judged among all.
        assert _kept(Contrast().judge(cases[:6] + cases[-1:]))[-1] != "etz5"

    def test_what_can_not_be_measured_is_rejected(self):
        cases = [*self._cohort(set(), 6), score_case(evidence(np.zeros((4, 4, 4), np.uint8), case="empty"))]
        verdict = Contrast().judge(cases)
        assert _kept(verdict) == [str(n) for n in range(6)]
        assert "contrast_cochlea can't be measured" in verdict["empty"]
        assert Contrast().judge([]) == {}
