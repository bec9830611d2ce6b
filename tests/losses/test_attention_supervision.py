import pytest
import torch
from torch import nn

from crossmoda.losses import AttentionSupervisionLoss, HardnessWeightedDiceLoss
from crossmoda.networks import SupervisedAttentionUNet2d5

SMOOTH = 1e-5


def maps_loss_by_loops(maps, label):
    """Mean over maps and samples of 1 - Dice, the pooled label found voxel by voxel."""
    losses = []
    for attention_map in maps:
        samples, _, *size = attention_map.shape
        edge = [label.shape[2 + axis] // size[axis] for axis in range(3)]
        for n in range(samples):
            overlap = both = 0.0
            for x in range(size[0]):
                for y in range(size[1]):
                    for z in range(size[2]):
                        block = label[
                            n,
                            0,
                            x * edge[0] : (x + 1) * edge[0],
                            y * edge[1] : (y + 1) * edge[1],
                            z * edge[2] : (z + 1) * edge[2],
                        ]
                        g = float(any(value > 0 for value in block.flatten().tolist()))
                        a = float(attention_map[n, 0, x, y, z])
                        overlap += a * g
                        both += a + g
            losses.append(1 - (2 * overlap + SMOOTH) / (both + SMOOTH))
    return sum(losses) / len(losses)


def example():
    torch.manual_seed(0)
    label = torch.randint(0, 3, (2, 1, 8, 4, 4)).double() * (torch.rand(2, 1, 8, 4, 4) < 0.1)
    maps = [torch.rand(2, 1, *size, dtype=torch.float64) for size in ((2, 1, 2), (4, 2, 4), (8, 4, 4))]
    return torch.randn(2, 3, 8, 4, 4, dtype=torch.float64), maps, label


@pytest.mark.parametrize("weight", [0.0, 1.0, 0.3])
def test_equals_the_loops(weight):
    logits, maps, label = example()
    segmentation_loss = HardnessWeightedDiceLoss()
    loss = AttentionSupervisionLoss(segmentation_loss, weight)([logits, *maps], label)
    expected = float(segmentation_loss(logits, label)) + weight * maps_loss_by_loops(maps, label)
    assert float(loss) == pytest.approx(expected, rel=1e-9)


def test_maps_that_hit_every_class_but_background_cost_nothing():
    _, _, label = example()
    pooled = nn.functional.max_pool3d(label, (4, 4, 2)) > 0
    loss = AttentionSupervisionLoss(lambda logits, target: torch.zeros(()))
    assert float(loss([label, (label > 0).double(), pooled.double()], label)) == pytest.approx(0, abs=1e-6)
    assert float(loss([label, 1.0 - pooled.double()], label)) == pytest.approx(1, abs=1e-5)


def test_maps_learn_from_their_own_part():
    torch.manual_seed(0)
    net = SupervisedAttentionUNet2d5(channels=(2, 4, 4, 4, 4, 4))
    label = (torch.rand(2, 1, 32, 32, 16) < 0.05).float()
    loss = AttentionSupervisionLoss(lambda logits, target: 0 * logits.sum())
    loss(net(torch.rand(2, 1, 32, 32, 16)), label).backward()
    for block in (net.bottom, *net.decoders):
        assert block.attention.map[2].weight.grad.abs().sum() > 0
    assert net.decoders[-1].unit.conv[0].conv.weight.grad.abs().sum() == 0
