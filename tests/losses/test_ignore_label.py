"""Ignored voxels have no effect on foreground Dice, cross entropy or any gradient."""

import pytest
import torch
from monai.losses import DeepSupervisionLoss, DiceCELoss, DiceLoss
from torch.nn import functional as F

from crossmoda.labels import IGNORE
from crossmoda.losses import AttentionSupervisionLoss, HardExampleDiceCELoss, IgnoreLabelLoss, WeightedDiceLoss

SHAPE = (8, 8, 4)


@pytest.fixture
def case():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, *SHAPE, requires_grad=True)
    label = torch.randint(0, 3, (2, 1, *SHAPE)).float()
    ignored = torch.rand(2, 1, *SHAPE) < 0.3
    return logits, label, ignored


LOSSES = {
    "weighted_dice": WeightedDiceLoss(),
    "dice_ce": DiceCELoss(to_onehot_y=True, softmax=True, include_background=False),
    "dice_batch": DiceLoss(to_onehot_y=True, softmax=True, include_background=False, batch=True),
    "hard_examples": HardExampleDiceCELoss(class_weights=(1, 5, 5), dilation_sizes=(3,)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_without_ignored_voxels_it_is_the_loss_itself(name, case):
    logits, label, _ = case
    loss = LOSSES[name]
    assert torch.equal(IgnoreLabelLoss(loss)(logits, label), loss(logits, label))


@pytest.mark.parametrize("name", LOSSES)
def test_neither_logits_nor_labels_of_ignored_voxels_matter(name, case):
    logits, label, ignored = case
    wrapped = IgnoreLabelLoss(LOSSES[name])
    first = wrapped(logits, label.masked_fill(ignored, IGNORE))
    first.backward()
    assert (logits.grad[ignored.expand_as(logits)] == 0).all()
    assert (logits.grad[~ignored.expand_as(logits)] != 0).any()
    other = torch.where(ignored, 50 * torch.randn_like(logits), logits).detach()
    assert torch.equal(wrapped(other, label.masked_fill(ignored, IGNORE)), first.detach())


def test_foreground_dice_is_that_of_the_other_voxels(case):
    logits, label, ignored = case
    loss = DiceLoss(to_onehot_y=True, softmax=True, include_background=False, smooth_nr=0, smooth_dr=0, batch=True)
    found = IgnoreLabelLoss(loss)(logits, label.masked_fill(ignored, IGNORE))
    seen = ~ignored[:, 0]  # an independent formulation: only these voxels, in a row
    p = logits.softmax(1).movedim(1, -1)[seen]
    g = F.one_hot(label[:, 0][seen].long(), 3)
    dice = 2 * (p * g).sum(0) / (p.sum(0) + g.sum(0))
    assert torch.allclose(found, 1 - dice[1:].mean(), atol=1e-6)


def test_cross_entropy_is_the_other_voxels_sum_over_all(case):
    logits, label, ignored = case
    loss = IgnoreLabelLoss(lambda x, y: F.cross_entropy(x, y[:, 0].long()))
    found = loss(logits, label.masked_fill(ignored, IGNORE))
    masked = label.masked_fill(ignored, -100)[:, 0].long()
    expected = F.cross_entropy(logits, masked, reduction="sum", ignore_index=-100) / masked.numel()
    assert torch.allclose(found, expected, atol=1e-6)


def test_mistaking_ignored_for_background_would_give_another_loss(case):
    logits, label, ignored = case
    loss = LOSSES["dice_ce"]
    found = IgnoreLabelLoss(loss)(logits, label.masked_fill(ignored, IGNORE))
    assert (found - loss(logits, label.masked_fill(ignored, 0))).abs() > 0.05


@pytest.mark.parametrize("name", ["monai", "hard_examples"])
def test_outputs_of_lower_resolution(name, case):
    logits, label, ignored = case
    lower = torch.randn(2, 3, 4, 4, 2, requires_grad=True)
    loss = DeepSupervisionLoss(LOSSES["dice_ce"]) if name == "monai" else LOSSES[name]
    wrapped = IgnoreLabelLoss(loss)
    target = label.masked_fill(ignored, IGNORE)
    first = wrapped([logits, lower], target)
    first.backward()
    mode = "nearest-exact" if name == "monai" else "nearest"
    shrunk = F.interpolate(ignored.float(), size=(4, 4, 2), mode=mode) > 0
    assert (lower.grad[shrunk.expand_as(lower)] == 0).all()
    assert (lower.grad[~shrunk.expand_as(lower)] != 0).all()
    # No constant is left over: with the seen voxels right and sure, the loss is that of a perfect prediction.
    sure = [40 * F.one_hot(label[:, 0].long(), 3).movedim(-1, 1).float()]
    sure.append(40 * F.one_hot(F.interpolate(label, size=(4, 4, 2), mode=mode)[:, 0].long(), 3).movedim(-1, 1).float())
    assert float(wrapped(sure, target)) < 1e-3


def test_attention_maps_are_not_pulled_where_only_ignored_voxels_are():
    logits = torch.zeros(1, 3, 4, 4, 2)
    label = torch.zeros(1, 1, 4, 4, 2)
    label[..., :2, :, :] = IGNORE
    label[..., 0, 0, 0] = 1  # foreground beside ignored voxels: the map must attend here
    attention = torch.full((1, 1, 2, 2, 1), 0.5, requires_grad=True)
    loss = IgnoreLabelLoss(AttentionSupervisionLoss(LOSSES["dice_ce"]))
    loss([logits, attention], label).backward()
    assert attention.grad[0, 0, 0, 0, 0] < 0  # more attention lowers the loss
    assert attention.grad[0, 0, 0, 1, 0] == 0
    assert (attention.grad[0, 0, 1] > 0).all()
