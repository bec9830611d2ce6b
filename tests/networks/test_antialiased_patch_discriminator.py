"""The PatchGAN of CUT's code, written out anew."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from crossmoda.networks import AntialiasedPatchDiscriminator


class Blur(nn.Module):
    def forward(self, x):
        kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
        return F.conv2d(
            F.pad(x, [1] * 4, mode="reflect"), kernel.repeat(x.shape[1], 1, 1, 1), None, 2, 0, 1, x.shape[1]
        )


def reference_patchgan(features):
    layers = [nn.Conv2d(1, features, 4, 1, 1), nn.LeakyReLU(0.2), Blur()]
    for i in range(3):
        c = features * 2**i
        layers += [nn.Conv2d(c, 2 * c, 4, 1, 1), nn.InstanceNorm2d(2 * c), nn.LeakyReLU(0.2)]
        layers += [Blur()] if i < 2 else []
    return nn.Sequential(*layers, nn.Conv2d(8 * features, 1, 4, 1, 1))


def test_has_2_76_million_parameters():
    count = sum(p.numel() for p in AntialiasedPatchDiscriminator().parameters())
    assert count == pytest.approx(2.76e6, rel=0.01)


def test_output_equals_a_reference_with_the_same_weights():
    network, reference = AntialiasedPatchDiscriminator(features=4, init="kaiming"), reference_patchgan(4)
    reference.load_state_dict(dict(zip(reference.state_dict(), network.state_dict().values(), strict=True)))
    x = torch.rand(2, 1, 64, 48)
    torch.testing.assert_close(network(x)[-1], reference(x))


def test_slices_of_a_batch_do_not_touch_each_other():
    network = AntialiasedPatchDiscriminator(features=4, init="kaiming")
    x = torch.rand(3, 1, 48, 48)
    torch.testing.assert_close(network(x)[-1], torch.cat([network(part)[-1] for part in x.split(1)]))
