import numpy as np
import pytest
import torch

from crossmoda.losses import WeightedDiceLoss

WEIGHTS = (0.1, 1.0, 1.0)


def numpy_loss(logits, label, weights, batch, smooth=1e-5):
    exp = np.exp(logits - logits.max(1, keepdims=True))
    p = exp / exp.sum(1, keepdims=True)
    g = np.stack([label[:, 0] == c for c in range(len(weights))], axis=1).astype(float)
    axes = (0, 2, 3, 4) if batch else (2, 3, 4)
    dice = (2 * (p * g).sum(axes) + smooth) / (p.sum(axes) + g.sum(axes) + smooth)
    return np.mean(1 - (dice * weights).sum(-1) / np.sum(weights))


@pytest.mark.parametrize("batch", [False, True])
def test_equals_numpy(batch):
    random = np.random.RandomState(0)
    logits, label = random.randn(2, 3, 4, 5, 6), random.randint(0, 3, (2, 1, 4, 5, 6))
    loss = WeightedDiceLoss(WEIGHTS, batch=batch)(torch.from_numpy(logits), torch.from_numpy(label).float())
    assert float(loss) == pytest.approx(numpy_loss(logits, label, WEIGHTS, batch), rel=1e-5)


def test_bounds():
    label = torch.randint(0, 3, (1, 1, 4, 4, 4))
    right = 100.0 * torch.nn.functional.one_hot(label[:, 0], 3).movedim(-1, 1)
    assert float(WeightedDiceLoss()(right, label.float())) == pytest.approx(0, abs=1e-5)
    assert float(WeightedDiceLoss()(right.roll(1, 1), label.float())) == pytest.approx(1, abs=1e-4)


def test_background_counts_a_tenth():
    # All VS called background: D_VS = 0; one quarter of the volume is VS and half is cochlea, found exactly.
    label = torch.tensor([1.0, 2, 2, 0]).reshape(1, 1, 4, 1, 1)
    predicted = torch.tensor([0, 2, 2, 0])
    logits = 100.0 * torch.nn.functional.one_hot(predicted, 3).T.reshape(1, 3, 4, 1, 1)
    assert float(WeightedDiceLoss()(logits, label)) == pytest.approx(1 - (0.1 * 2 / 3 + 0 + 1) / 2.1, abs=1e-4)


def test_wrong_weights_are_refused():
    with pytest.raises(ValueError, match="not all zero"):
        WeightedDiceLoss((0, 0))
