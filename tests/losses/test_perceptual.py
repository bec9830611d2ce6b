"""The perceptual loss: VGG19's layers by torchvision's names, the formula, weights that can and can't be had."""

import logging
import sys
import types

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from crossmoda.errors import InputError
from crossmoda.losses import PerceptualLoss, load_perceptual_loss, load_perceptual_loss_or_exit
from crossmoda.losses.perceptual import vgg19_shapes

# Configuration E of Simonyan 2015 as torchvision numbers it.
CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28)
POOLS = (4, 9, 18, 27)


@pytest.fixture(scope="module")
def state():
    """Random weights of VGG19's size, and something deeper that must not be looked at."""
    generator = torch.Generator().manual_seed(0)
    weights = {"classifier.0.weight": torch.zeros(3)}
    for name, shape in vgg19_shapes().items():
        scale = 1 if len(shape) == 1 else (2 / shape[1] / 9) ** 0.5
        weights[name] = torch.randn(shape, generator=generator) * scale
    return weights


def plain_vgg(state):
    """torchvision's `vgg19().features[:30]` with average pools."""
    layers, channels = [], 3
    for index in range(30):
        if index in CONVOLUTIONS:
            out = state[f"features.{index}.weight"].shape[0]
            layers.append(nn.Conv2d(channels, out, 3, padding=1))
            channels = out
        else:
            layers.append(nn.AvgPool2d(2) if index in POOLS else nn.ReLU())
    network = nn.ModuleDict({"features": nn.Sequential(*layers)})
    network.load_state_dict({name: value for name, value in state.items() if name.startswith("features")})
    return network["features"]


def test_shapes_are_those_of_the_first_30_layers():
    shapes = vgg19_shapes()
    assert len(shapes) == 26
    assert shapes["features.0.weight"] == (64, 3, 3, 3)
    assert shapes["features.19.weight"] == (512, 256, 3, 3)
    assert shapes["features.28.bias"] == (512,)


def test_equals_plain_torch(state):
    torch.manual_seed(1)
    a, b = (torch.rand(2, 3, 32, 48) * 2 - 1 for _ in range(2))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x, y = (((image + 1) / 2 - mean) / std for image in (a, b))
    expected, count = 0.0, 0
    for layer in plain_vgg(state):
        x, y = layer(x), layer(y)
        if isinstance(layer, nn.ReLU):
            expected, count = expected + F.mse_loss(x, y), count + 1
    assert count == 13
    loss = PerceptualLoss(state)
    torch.testing.assert_close(loss(a, b), expected)
    assert float(loss(a, a)) == 0


def test_gradient_goes_to_the_image_alone_and_nothing_is_stored_or_trained(state):
    loss = PerceptualLoss(state)
    image, reference = (torch.rand(1, 3, 16, 16, requires_grad=True) for _ in range(2))
    loss(image, reference).backward()
    assert image.grad.abs().sum() > 0
    assert reference.grad is None
    assert not list(loss.parameters())
    assert not loss.state_dict()
    assert loss.to(torch.float64).features_0_weight.dtype == torch.float64


def test_weights_of_a_file(state, tmp_path):
    torch.save(state, tmp_path / "vgg19.pth")
    image, reference = torch.rand(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)
    loaded = load_perceptual_loss(tmp_path / "vgg19.pth")
    torch.testing.assert_close(loaded(image, reference), PerceptualLoss(state)(image, reference))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing"),
        (b"no weights", "can't be read"),
        ({"other.weight": torch.zeros(1)}, "does not hold VGG19's weights"),
        ({"features.0.weight": torch.zeros(64, 1, 3, 3)}, "has shape"),
        ([1, 2], "does not hold VGG19's weights"),
    ],
)
def test_a_wrong_file_is_named(content, message, tmp_path, capsys):
    path = tmp_path / "vgg19.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(InputError, match=f"vgg19.pth .*{message}.*vgg19-dcbb9e9d.pth"):
        load_perceptual_loss(path)
    with pytest.raises(SystemExit):
        load_perceptual_loss_or_exit(path)
    assert capsys.readouterr().err.count("\n") == 1


def test_without_weights_the_term_is_off_and_says_so_once(monkeypatch, caplog):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with caplog.at_level(logging.WARNING):
        assert load_perceptual_loss() is None
    assert len(caplog.records) == 1
    assert "OFF (torchvision is not installed)" in caplog.text
    assert "--perceptual_weights PATH" in caplog.text


def test_weight_0_loads_and_says_nothing(caplog, tmp_path):
    with caplog.at_level(logging.WARNING):
        assert load_perceptual_loss(tmp_path / "none.pth", enabled=False) is None
    assert not caplog.records


@pytest.fixture
def torchvision(monkeypatch):
    """A torchvision whose weights are what `give` returns."""

    def install(give):
        weights = types.SimpleNamespace(IMAGENET1K_V1=types.SimpleNamespace(get_state_dict=lambda **options: give()))
        models = types.ModuleType("torchvision.models")
        models.VGG19_Weights = weights
        monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
        monkeypatch.setitem(sys.modules, "torchvision.models", models)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: object())

    return install


def test_weights_of_an_installed_torchvision(state, torchvision, caplog):
    torchvision(lambda: state)
    image, reference = torch.rand(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)
    torch.testing.assert_close(load_perceptual_loss()(image, reference), PerceptualLoss(state)(image, reference))
    assert not caplog.records


def test_a_torchvision_without_network_turns_the_term_off(torchvision, caplog):
    def fail():
        raise OSError("no route to host")

    torchvision(fail)
    assert load_perceptual_loss() is None
    assert "OFF (torchvision gave no VGG19 weights: no route to host)" in caplog.text
