import math

import pytest
import torch
from monai.losses import DiceLoss

from crossmoda.losses import HardnessWeightedDiceLoss

SMOOTH = 1e-5


def loss_by_loops(logits, label, hardness):
    """Voxel by voxel, in floats."""
    samples, classes = len(logits), len(logits[0])
    total = 0.0
    for n in range(samples):
        scores = [values.flatten().tolist() for values in logits[n]]
        truth = label[n].flatten().tolist()
        for c in range(classes):
            overlap = both = 0.0
            for i, true_class in enumerate(truth):
                p = math.exp(scores[c][i]) / sum(math.exp(scores[k][i]) for k in range(classes))
                g = float(true_class == c)
                w = hardness * abs(p - g) + (1 - hardness)
                overlap += w * p * g
                both += w * p + w * g
            total += 1 - (2 * overlap + SMOOTH) / (both + SMOOTH)
    return total / (samples * classes)


def example():
    torch.manual_seed(0)
    return torch.randn(2, 3, 3, 4, 2, dtype=torch.float64), torch.randint(0, 3, (2, 1, 3, 4, 2)).double()


@pytest.mark.parametrize("hardness", [0.0, 0.6, 1.0])
def test_equals_the_loops(hardness):
    logits, label = example()
    loss = HardnessWeightedDiceLoss(hardness)(logits, label)
    assert float(loss) == pytest.approx(loss_by_loops(logits, label, hardness), rel=1e-9)


def test_by_hand():
    # One voxel of class 0, predicted with p = 0.5, 0.5: w = 0.6 * 0.5 + 0.4 = 0.7 for both classes.
    loss = HardnessWeightedDiceLoss(smooth=0)(torch.zeros(1, 2, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1))
    first = 1 - 2 * 0.7 * 0.5 / (0.7 * 0.5 + 0.7)
    assert float(loss) == pytest.approx((first + 1) / 2, rel=1e-6)


def test_without_hardness_it_is_monais_dice():
    logits, label = example()
    plain = DiceLoss(softmax=True, to_onehot_y=True)(logits, label)
    assert float(HardnessWeightedDiceLoss(0.0)(logits, label)) == pytest.approx(float(plain), rel=1e-6)


def test_the_weights_are_part_of_the_gradient():
    logits, label = example()
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(HardnessWeightedDiceLoss()(logits, label), logits)
    step, index = 1e-6, (1, 2, 0, 3, 1)
    moved = [logits.detach().clone() for _ in range(2)]
    moved[0][index] += step
    moved[1][index] -= step
    rise = (loss_by_loops(moved[0], label, 0.6) - loss_by_loops(moved[1], label, 0.6)) / (2 * step)
    assert float(gradient[index]) == pytest.approx(rise, rel=1e-5)


def test_bounds():
    label = torch.randint(0, 3, (1, 1, 4, 4, 4)).float()
    right = 100.0 * torch.nn.functional.one_hot(label[:, 0].long(), 3).movedim(-1, 1)
    assert float(HardnessWeightedDiceLoss()(right, label)) == pytest.approx(0, abs=1e-5)
    assert float(HardnessWeightedDiceLoss()(right.roll(1, 1), label)) == pytest.approx(1, abs=1e-4)


def test_wrong_hardness_is_refused():
    with pytest.raises(ValueError, match="hardness"):
        HardnessWeightedDiceLoss(1.5)
