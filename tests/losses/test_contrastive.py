"""Contrastive losses against loop-written references and cases computed by hand."""

import math

import pytest
import torch
from torch.nn import functional as F

from crossmoda.losses import UNGRADED, CrossModalContrastiveLoss, KoosPretrainingLoss, SupConLoss

TAU = 0.3
GRADES = ([0, 1, 2, 3], [0, 0, 1, 1, 1, 3], [2, 2, 2, 2], [1], [0, UNGRADED, 0, 3, UNGRADED])


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def by_loops(vectors, grades, supervised):
    """Equations 5 and 6 of Han 2022 term by term, with j in the denominator that is misprinted."""
    members = [i for i in range(len(grades)) if not supervised or grades[i] != UNGRADED]

    def s(i, j):
        return math.exp(float(vectors[i, 0] @ vectors[j, 1]) / TAU)

    loss = 0.0
    for i in members:
        positives = [p for p in members if (grades[p] == grades[i] if supervised else p == i)]
        for p in positives:
            forward = s(i, p) / sum(s(i, j) for j in members)
            backward = s(p, i) / sum(s(j, i) for j in members)
            loss -= math.log(forward * backward) / len(positives)
    return loss


def supcon_by_loops(vectors, grades, supervised):
    """Khosla 2020, eq. 2, over both modalities; the mean over the anchors that have a positive."""
    anchors = [
        (case, vectors[case, modality], grades[case] if supervised else case)
        for case in range(vectors.shape[0])
        if not supervised or grades[case] != UNGRADED
        for modality in range(vectors.shape[1])
    ]
    losses = []
    for i, (_, anchor, own) in enumerate(anchors):
        others = [j for j in range(len(anchors)) if j != i]
        positives = [j for j in others if anchors[j][2] == own]
        if not positives:
            continue
        total = sum(math.exp(float(anchor @ anchors[j][1]) / TAU) for j in others)
        terms = [math.log(math.exp(float(anchor @ anchors[j][1]) / TAU) / total) for j in positives]
        losses.append(-sum(terms) / len(terms))
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize("supervised", [False, True])
@pytest.mark.parametrize("grades", GRADES, ids=str)
@pytest.mark.parametrize(
    ("loss", "reference"),
    [(CrossModalContrastiveLoss, by_loops), (SupConLoss, supcon_by_loops)],
    ids=["paper", "supcon"],
)
def test_equals_loops(loss, reference, grades, supervised):
    vectors = unit(len(grades), 2, 5)
    expected = reference(vectors, grades, supervised)
    assert loss(supervised, TAU)(vectors, torch.tensor(grades)).item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("grades", GRADES, ids=str)
def test_single_modality(grades):
    vectors = unit(len(grades), 1, 5).requires_grad_()
    for supervised in (False, True):
        nothing = CrossModalContrastiveLoss(supervised, TAU)(vectors, torch.tensor(grades))
        nothing.backward()  # a batch without pairs must not break a training
        assert nothing.item() == 0
        expected = supcon_by_loops(vectors.detach(), grades, supervised)
        found = SupConLoss(supervised, TAU)(vectors, torch.tensor(grades))
        assert found.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_single_class_pulls_all_pairs_together():
    grades = torch.zeros(3, dtype=torch.long)
    same = torch.tensor([1.0, 0.0]).expand(3, 2, 2)
    # All similarities alike: each softmax is 1/3, both directions, three anchors.
    assert CrossModalContrastiveLoss(True, TAU)(same, grades).item() == pytest.approx(6 * math.log(3), rel=1e-5)


def test_by_hand():
    # Two cases; ceT1 e1, e2 and hrT2 e1, e2: similarity 1 with the own, 0 with the other, over a temperature of 0.5.
    vectors = torch.eye(2)[:, None].expand(2, 2, 2)
    one_way = -math.log(math.e**2 / (math.e**2 + 1))
    loss = CrossModalContrastiveLoss(False, 0.5)(vectors, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(4 * one_way, rel=1e-5)
    assert CrossModalContrastiveLoss(True, 0.5)(vectors, torch.tensor([0, 1])).item() == pytest.approx(loss.item())


def test_symmetric_in_the_modalities():
    vectors, grades = unit(6, 2, 4), torch.tensor([0, 0, 1, 1, 2, 3])
    for supervised in (False, True):
        loss = CrossModalContrastiveLoss(supervised, TAU)
        torch.testing.assert_close(loss(vectors, grades), loss(vectors.flip(1), grades))


def test_not_supervised_supcon_is_monai_s_contrastive_loss():
    from monai.losses import ContrastiveLoss

    vectors = unit(5, 2, 6)
    expected = ContrastiveLoss(temperature=TAU)(vectors[:, 0], vectors[:, 1])
    torch.testing.assert_close(SupConLoss(False, TAU)(vectors, torch.arange(5)), expected)


def test_pretraining_takes_the_modalities_in_a_row():
    own, graded = unit(4, 2, 5), unit(4, 2, 5, seed=1)
    grades = torch.tensor([0, 1, 1, UNGRADED])
    loss = KoosPretrainingLoss(CrossModalContrastiveLoss(False, TAU), CrossModalContrastiveLoss(True, TAU))
    projections = torch.cat([torch.stack([own[:, m], graded[:, m]], dim=1) for m in (0, 1)])
    expected = by_loops(own, grades.tolist(), False) + by_loops(graded, grades.tolist(), True)
    assert loss(projections, grades.repeat(2)).item() == pytest.approx(expected, rel=1e-4)


def test_autocast_does_not_coarsen_it():
    vectors, grades = unit(6, 2, 8), torch.tensor([0, 0, 1, 1, 2, 3])
    for loss in (CrossModalContrastiveLoss(True), SupConLoss(True)):
        exact = loss(vectors, grades)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(loss(vectors, grades), exact)
