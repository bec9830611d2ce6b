"""The generator must be Zhu et al.'s table: sizes, layers, initialisation."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from crossmoda.errors import InputError
from crossmoda.networks import ResnetGenerator


def reference_generator(features, n_blocks):
    """The layers of CycleGAN's ResNet generator written out anew, as one flat list."""
    layers = [nn.ReflectionPad2d(3), nn.Conv2d(1, features, 7), nn.InstanceNorm2d(features), nn.ReLU()]
    for c in (features, 2 * features):
        layers += [nn.Conv2d(c, 2 * c, 3, 2, 1), nn.InstanceNorm2d(2 * c), nn.ReLU()]
    c = 4 * features
    for _ in range(n_blocks):
        conv = [nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), nn.InstanceNorm2d(c)]
        again = [nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), nn.InstanceNorm2d(c)]
        layers.append(nn.Sequential(*conv, nn.ReLU(), *again))
    for c in (4 * features, 2 * features):
        layers += [nn.ConvTranspose2d(c, c // 2, 3, 2, 1, 1), nn.InstanceNorm2d(c // 2), nn.ReLU()]
    return nn.ModuleList([*layers, nn.ReflectionPad2d(3), nn.Conv2d(features, 1, 7), nn.Tanh()])


def run_reference(layers, x):
    for layer in layers:
        x = x + layer(x) if isinstance(layer, nn.Sequential) else layer(x)
    return x


def test_resnet_9_has_11_4_million_parameters():
    count = sum(p.numel() for p in ResnetGenerator().parameters())
    assert count == pytest.approx(11.4e6, rel=0.01)


def test_output_equals_a_reference_with_the_same_weights():
    network = ResnetGenerator(features=4, n_blocks=2)
    reference = reference_generator(4, 2)
    reference.load_state_dict(dict(zip(reference.state_dict(), network.state_dict().values(), strict=True)))
    x = torch.rand(2, 1, 20, 24) * 2 - 1
    torch.testing.assert_close(network(x), run_reference(reference, x))


@pytest.mark.parametrize("size", [(16, 16), (17, 30), (23, 21)])
def test_any_size_comes_back(size):
    image = ResnetGenerator(features=4, n_blocks=1)(torch.rand(1, 1, *size))
    assert image.shape == (1, 1, *size)
    assert image.abs().max() <= 1


def test_padding_does_not_change_divisible_sizes():
    network = ResnetGenerator(features=4, n_blocks=1)
    x = torch.rand(1, 1, 16, 20)
    assert torch.equal(network(x), network.decode(network.encode(x)))


def test_feature_channels_are_those_of_encode():
    network = ResnetGenerator(features=4, n_blocks=1)
    features = network.encode(torch.rand(1, 1, 16, 16))
    assert tuple(f.shape[1] for f in features) == network.feature_channels
    assert [f.shape[-1] for f in features] == [16, 8, 4]


def test_weights_are_drawn_from_normal_0_02():
    torch.manual_seed(0)
    network = ResnetGenerator(features=32, n_blocks=1)
    weights = torch.cat([p.flatten() for name, p in network.named_parameters() if "weight" in name])
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)
    assert weights.mean().item() == pytest.approx(0, abs=1e-3)
    assert all((p == 0).all() for name, p in network.named_parameters() if "bias" in name)


class Down(nn.Module):
    def forward(self, x):
        kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
        return F.conv2d(
            F.pad(x, [1] * 4, mode="reflect"), kernel.repeat(x.shape[1], 1, 1, 1), None, 2, 0, 1, x.shape[1]
        )


def reference_antialiased(features, n_blocks):
    """The layers of CUT's ResNet generator as one flat list, so that its layer numbers hold."""
    layers = [nn.ReflectionPad2d(3), nn.Conv2d(1, features, 7), nn.InstanceNorm2d(features), nn.ReLU()]
    for c in (features, 2 * features):
        layers += [nn.Conv2d(c, 2 * c, 3, 1, 1), nn.InstanceNorm2d(2 * c), nn.ReLU(), Down()]
    layers += reference_generator(features, n_blocks)[10 : 10 + n_blocks]
    for c in (4 * features, 2 * features):
        up = nn.Upsample(scale_factor=2, mode="bilinear")
        layers += [up, nn.Conv2d(c, c // 2, 3, 1, 1), nn.InstanceNorm2d(c // 2), nn.ReLU()]
    return nn.ModuleList([*layers, nn.ReflectionPad2d(3), nn.Conv2d(features, 1, 7), nn.Tanh()])


TAPS = ["padded", "down1", "down2", "block1", "block5"]


@pytest.fixture
def antialiased():
    torch.manual_seed(0)
    network, reference = ResnetGenerator(features=4, n_blocks=6, antialiased=True), reference_antialiased(4, 6)
    reference.load_state_dict(dict(zip(reference.state_dict(), network.state_dict().values(), strict=True)))
    return network, reference


def test_antialiased_output_equals_a_reference_with_the_same_weights(antialiased):
    network, reference = antialiased
    x = torch.rand(2, 1, 20, 24) * 2 - 1
    torch.testing.assert_close(network(x), run_reference(reference, x))


def test_antialiased_has_as_many_parameters():
    count = sum(p.numel() for p in ResnetGenerator(antialiased=True).parameters())
    assert count == pytest.approx(11.4e6, rel=0.01)


def test_taps_are_layers_0_4_8_12_16_of_the_flat_list(antialiased):
    network, reference = antialiased
    x = torch.rand(2, 1, 20, 24) * 2 - 1
    image, maps = network.translate_with_taps(x, TAPS)
    torch.testing.assert_close(image, network(x))
    encoded = network.encode_taps(x, TAPS)
    assert [m.shape[1] for m in maps] == network.tap_channels(TAPS)
    for end, tap, again in zip((1, 5, 9, 13, 17), maps, encoded, strict=True):
        torch.testing.assert_close(tap, run_reference(reference[:end], x))
        assert torch.equal(tap, again)


def test_encoding_stops_at_the_last_tap(antialiased):
    network, _ = antialiased
    calls = []
    for block in network.blocks:
        block.register_forward_hook(lambda *_: calls.append(1))
    network.encode_taps(torch.rand(1, 1, 16, 16), TAPS)
    assert len(calls) == 5


def test_unknown_taps_are_refused():
    with pytest.raises(InputError, match="padded, down1, down2, block1, in this order; not padded, block5"):
        ResnetGenerator(features=4, n_blocks=1).tap_channels(["padded", "block5"])


@pytest.mark.parametrize("antialiased", [False, True])
def test_scripts_and_gives_the_same_at_odd_sizes(antialiased):
    network = ResnetGenerator(features=4, n_blocks=1, antialiased=antialiased)
    x = torch.rand(1, 1, 18, 21)
    torch.testing.assert_close(torch.jit.script(network)(x), network(x))
