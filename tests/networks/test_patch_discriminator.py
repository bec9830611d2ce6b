"""MONAI's PatchDiscriminator with the options of train.yaml must be the 70x70 PatchGAN."""

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn

CONFIG = Path(__file__).parents[2] / "bundles" / "translation" / "configs" / "train.yaml"


def discriminator(features):
    parser = ConfigParser()
    parser.read_config(str(CONFIG))
    parser["features"] = features
    return parser.get_parsed_content("discriminator_def")


def reference_patchgan(features):
    """Zhu et al. 2017, 7.2: C64-C128-C256-C512, then one logit a patch."""
    layers = [nn.Conv2d(1, features, 4, 2, 1), nn.LeakyReLU(0.2)]
    for i, stride in enumerate((2, 2, 1)):
        c = features * 2**i
        layers += [nn.Conv2d(c, 2 * c, 4, stride, 1), nn.InstanceNorm2d(2 * c), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(8 * features, 1, 4, 1, 1))


def test_has_2_76_million_parameters():
    assert sum(p.numel() for p in discriminator(64).parameters()) == pytest.approx(2.76e6, rel=0.01)


def test_output_equals_a_reference_with_the_same_weights():
    network, reference = discriminator(4), reference_patchgan(4)
    reference.load_state_dict(dict(zip(reference.state_dict(), network.state_dict().values(), strict=True)))
    x = torch.rand(2, 1, 64, 48)
    torch.testing.assert_close(network(x)[-1], reference(x))


def test_a_logit_sees_70_pixels():
    network = discriminator(4)
    # Instance norm looks at the whole image; without it the receptive field is that of the convolutions.
    for name, module in network.named_modules():
        if name.endswith("adn.N"):
            module.forward = lambda x: x
    x = torch.rand(1, 1, 160, 160, requires_grad=True)
    logits = network(x)[-1]
    logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
    rows = x.grad[0, 0].abs().sum(1).nonzero().flatten()
    assert int(rows[-1] - rows[0]) + 1 == 70
