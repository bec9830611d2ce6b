from __future__ import annotations

import numpy as np
import pytest
from monai.bundle import ConfigParser
from selftraining_cases import TWO, evidence, head

from crossmoda.selftraining import CleaningRule, SelectionRule, VoxelRule, measure_anatomy, score_case
from crossmoda.selftraining.priors import LabelPriors

PACKAGE = "crossmoda.selftraining."
SELECTION = [
    {"_target_": "AtLeast", "names": ["confidence_foreground"], "minimum": 0.9},
    {"_target_": "AtLeast", "names": ["agreement_VS", "agreement_cochlea"], "minimum": 0.7},
    {"_target_": "AtMost", "names": ["entropy"], "maximum": 0.4},
    {"_target_": "TopShare", "share": 0.6},
    {"_target_": "Plausible", "priors": "@priors"},
    {"_target_": "Contrast", "least_cases": 5, "worst": {"contrast_cochlea": 0.0}},
]
CLEANING = [
    {"_target_": "CochleaByContrast", "dilation_mm": 1.0},
    {"_target_": "IntraMeatalByContrast", "intra": None},
    {"_target_": "Components", "rules": ["largest_vs"]},
    {"_target_": "FillHoles"},
]
VOXELS = [
    {"_target_": "LowConfidence", "threshold": 0.6},
    {"_target_": "TopVoxelShare", "share": 0.6},
    {"_target_": "Disagreement", "least_share": 1.0},
    {"_target_": "BorderBand", "width_mm": 1.0},
    {"_target_": "ChangedByCleaning"},
]


def _build(config: dict, **others):
    parser = ConfigParser({"rule": config | {"_target_": PACKAGE + config["_target_"]}, **others})
    return parser.get_parsed_content("rule")


@pytest.fixture(scope="module")
def case():
    labels, image = head()
    return evidence(labels, image, views=(labels, labels))


@pytest.mark.parametrize("config", SELECTION, ids=lambda config: config["_target_"])
def test_selection(config, case, tmp_path):
    LabelPriors.of([measure_anatomy(case.labels, np.eye(4), TWO)]).save(tmp_path / "priors.json")
    rule = _build(config, priors=str(tmp_path / "priors.json"))
    assert isinstance(rule, SelectionRule)
    assert rule.judge([score_case(case)]) == {"case": ""}


@pytest.mark.parametrize("config", CLEANING, ids=lambda config: config["_target_"])
def test_cleaning(config, case):
    rule = _build(config)
    assert isinstance(rule, CleaningRule)
    assert rule(case.labels, case).shape == case.labels.shape


@pytest.mark.parametrize("config", VOXELS, ids=lambda config: config["_target_"])
def test_voxels(config, case):
    rule = _build(config)
    assert isinstance(rule, VoxelRule)
    assert rule(case.labels, case).dtype == bool
