"""The selection score's parts on slices made for it."""

import pytest
import torch

from crossmoda.engines import TranslationScore


def output(translated, source, target, label, segmentation=None):
    return {"image": source, "label": label, "pred": translated, "target": target, "segmentation": segmentation}


@pytest.fixture
def slices():
    generator = torch.Generator().manual_seed(0)
    source = torch.rand(4, 1, 48, 48, generator=generator) * 0.2 - 0.8
    target = torch.rand(4, 1, 48, 48, generator=generator) * 1.2 - 0.6
    label = torch.zeros(4, 1, 48, 48)
    label[:, :, 10:16, 10:16] = 1
    label[:, :, 30:36, 30:36] = 2
    return source, target, label


def score(*batches):
    metric = TranslationScore()
    keys = metric.required_output_keys
    for batch in batches:
        metric.update([batch[key] for key in keys])
    return metric.compute(), metric.parts


def test_perfect_translation_scores_1(slices):
    source, target, label = slices
    ideal = target.clone()
    ideal[label == 1], ideal[label == 2] = 0.8, 0.95
    total, parts = score(output(ideal, source, ideal, label, label))
    assert parts.pop("score_visible_VS") > 0.99
    assert parts == {
        "score_intensity": 1.0,
        "score_spectrum": 1.0,
        "score_visible_cochlea": pytest.approx(1.0, abs=0.01),
        "score_order": 1.0,
        "score_segmenter": 1.0,
    }
    assert total == pytest.approx(1.0, abs=0.01)


def test_no_translation_closes_nothing(slices):
    source, target, label = slices
    _, parts = score(output(source, source, target, label))
    assert parts["score_intensity"] == 0
    assert parts["score_spectrum"] == 0
    assert parts["score_order"] == pytest.approx(0.5, abs=0.1)
    assert "score_segmenter" not in parts


def test_bright_tumour_and_lost_cochlea_lower_the_score(slices):
    source, target, label = slices
    good = target.clone()
    good[label == 1], good[label == 2] = -0.9, 0.9
    bad = target.clone()
    bad[label == 1] = 0.9
    _, best = score(output(good, source, target, label))
    _, worst = score(output(bad, source, target, label))
    assert best["score_order"] == 1
    assert worst["score_order"] < 0.01
    assert worst["score_visible_cochlea"] < best["score_visible_cochlea"] / 2


def test_batches_may_be_cut_anyhow(slices):
    source, target, label = slices
    whole = output(target.flip(0), source, target, label, label)
    parts = [{key: value[i : i + 1] for key, value in whole.items()} for i in range(4)]
    assert score(whole)[0] == pytest.approx(score(*parts)[0], rel=1e-5)
