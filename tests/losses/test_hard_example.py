import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from crossmoda.losses import HardExampleDiceCELoss
from crossmoda.losses.hard_example import dilate

WEIGHTS = (1.0, 5.0, 15.0, 5.0)


def example(seed=0, shape=(2, 1, 8, 8, 3), classes=4):
    generator = torch.Generator().manual_seed(seed)
    label = torch.zeros(shape)
    label[:, :, 2:5, 3:5, 1:] = 1
    label[:, :, 2, 3, 1] = 2
    label[0, :, 6, 6, 0] = 3
    outputs = [
        torch.randn(shape[0], classes, shape[2] // d, shape[3] // d, shape[4], generator=generator) for d in (1, 2, 4)
    ]
    return outputs, label


def near(label, b, x, y, z, half, tumour):
    """Whether a tumour voxel lies in the cube around a voxel."""
    ranges = [range(max(i - half, 0), min(i + half + 1, n)) for i, n in zip((x, y, z), label.shape[2:], strict=True)]
    return any(int(label[b, 0, i, j, k]) in tumour for i, j, k in itertools.product(*ranges))


def away(label, b, x, y, z, half, tumour):
    """Whether a voxel inside the scan that is no tumour lies in the cube around a voxel."""
    ranges = [range(max(i - half, 0), min(i + half + 1, n)) for i, n in zip((x, y, z), label.shape[2:], strict=True)]
    return any(int(label[b, 0, i, j, k]) not in tumour for i, j, k in itertools.product(*ranges))


def by_loops(outputs, label, ring=None, rim=None, tumour=(1, 2), hard=15.0, factor=20.0):
    """The loss, voxel by voxel."""
    total = 0.0
    for level, logits in enumerate(outputs):
        step = 2**level
        n_batch, n_class = logits.shape[:2]
        probability = logits.softmax(1)
        cross_entropy, count = 0.0, 0
        overlap, size = [0.0] * n_class, [0.0] * n_class
        for b, x, y, z in itertools.product(range(n_batch), *[range(n) for n in logits.shape[2:]]):
            truth = int(label[b, 0, step * x, step * y, z])
            weight = WEIGHTS[truth]
            if level == 0:
                if ring and truth not in tumour and near(label, b, x, y, z, ring // 2, tumour):
                    weight += hard
                if rim and truth in tumour and away(label, b, x, y, z, rim // 2, tumour):
                    weight += hard
            p = [float(v) for v in probability[b, :, x, y, z]]
            cross_entropy -= weight * math.log(p[truth])
            count += 1
            for c in range(n_class):
                overlap[c] += p[c] * (truth == c)
                size[c] += p[c] + (truth == c)
        dice = [(2 * overlap[c] + 1e-5) / (size[c] + 1e-5) for c in range(1, n_class)]
        total += 0.5**level * (factor * cross_entropy / count + 1 - sum(dice) / len(dice))
    return total


@pytest.mark.parametrize(("dilation", "erosion"), [((5,), ()), ((), (3,)), ((3,), (3,)), ((), ())], ids=str)
def test_is_the_loss_written_out_in_loops(dilation, erosion):
    outputs, label = example()
    loss = HardExampleDiceCELoss(WEIGHTS, (1, 2), dilation_sizes=dilation, erosion_sizes=erosion)
    expected = by_loops(outputs, label, dilation[0] if dilation else None, erosion[0] if erosion else None)
    assert float(loss(outputs, label)) == pytest.approx(expected, rel=1e-5)


def test_one_output_is_the_full_size_alone():
    outputs, label = example()
    loss = HardExampleDiceCELoss(WEIGHTS, (1, 2), dilation_sizes=(3,))
    expected = by_loops(outputs[:1], label, 3)
    assert float(loss(outputs[0], label)) == pytest.approx(expected, rel=1e-5)
    assert float(loss((outputs[0],), label.byte())) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size", [1, 3, 7, 15])
def test_dilation_by_axes_is_that_by_a_cube(size):
    mask = (torch.rand(2, 1, 12, 9, 6, generator=torch.Generator().manual_seed(1)) > 0.97).float()
    assert torch.equal(dilate(mask, size), F.max_pool3d(mask, size, stride=1, padding=size // 2))


def test_hard_examples_are_a_ring_whose_size_is_drawn():
    label = torch.zeros(1, 1, 31, 31, 31)
    label[..., 15, 15, 15] = 1
    label[..., 0, 0, 0] = 2  # the cochlea has none
    loss = HardExampleDiceCELoss((1.0, 5.0, 5.0))
    torch.manual_seed(0)
    counts = [int(loss.hard_examples(label).sum()) for _ in range(60)]
    assert set(counts) == {size**3 - 1 for size in (7, 9, 11, 13, 15)}
    assert loss.hard_examples(label)[..., 15, 15, 15] == 0
    torch.manual_seed(0)
    assert [int(loss.hard_examples(label).sum()) for _ in range(60)] == counts


def test_zero_strength_is_plain_weighted_cross_entropy():
    outputs, label = example()
    plain = HardExampleDiceCELoss(WEIGHTS, (1, 2), dilation_sizes=(), erosion_sizes=())
    off = HardExampleDiceCELoss(WEIGHTS, (1, 2), hard_weight=0.0)
    assert torch.equal(plain(outputs, label), off(outputs, label))


def test_without_a_tumour_nothing_is_hard():
    loss = HardExampleDiceCELoss((1.0, 5.0, 5.0), erosion_sizes=(3,))
    assert loss.hard_examples(torch.zeros(1, 1, 9, 9, 9)).sum() == 0


def test_perfect_prediction_is_nearly_zero_and_gradients_flow():
    outputs, label = example()
    outputs = [output.requires_grad_() for output in outputs]
    loss = HardExampleDiceCELoss(WEIGHTS, (1, 2))
    loss(outputs, label).backward()
    assert all(output.grad.abs().sum() > 0 for output in outputs)
    perfect = 50 * F.one_hot(label[:, 0].long(), 4).movedim(-1, 1).float()
    assert float(loss(perfect, label)) < 1e-4


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="odd"):
        HardExampleDiceCELoss(WEIGHTS, dilation_sizes=(4,))
    with pytest.raises(ValueError, match="class weights"):
        HardExampleDiceCELoss((1.0, -1.0))
