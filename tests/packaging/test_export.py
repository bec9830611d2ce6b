"""Exports of each bundle's default network give what the network gives."""

from __future__ import annotations

import onnxruntime
import pytest
import torch
from packaging_cases import ROOT, TINY, tiny

from crossmoda.bundle import config_path, flatten_config
from crossmoda.errors import InputError
from crossmoda.packaging.export import TOLERANCE, example_input, export_onnx, export_torchscript
from crossmoda.packaging.weights import build_network, read_weights

SHAPES = {"translation": (1, 1, 40, 32), "segmentation-2.5d": (1, 1, 32, 48, 8), "segmentation-3d": (1, 1, 32, 48, 8)}


@pytest.fixture(scope="module", params=TINY)
def case(request, tmp_path_factory):
    """A small network of a bundle, and an input."""
    overlay, weights = tiny(request.param, tmp_path_factory.mktemp("weights"))
    root = ROOT / "bundles" / request.param
    network = build_network(flatten_config([config_path(root, "inference"), overlay]))
    read_weights(weights, network)
    return network, example_input(SHAPES[request.param])


def close(found, network, x) -> bool:
    with torch.no_grad():
        expected = network(x)
    return torch.allclose(torch.as_tensor(found), expected, rtol=0, atol=TOLERANCE * float(expected.abs().max()))


def test_torchscript(case, tmp_path):
    network, x = case
    assert export_torchscript(network, x, tmp_path / "model.ts") >= 0
    with torch.no_grad():
        assert close(torch.jit.load(tmp_path / "model.ts")(x), network, x)


def test_onnx_in_onnxruntime(case, tmp_path):
    network, x = case
    assert export_onnx(network, x, tmp_path / "model.onnx") >= 0
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [item.name for item in (*session.get_inputs(), *session.get_outputs())] == ["image", "pred"]
    other = torch.cat([x, 1 - x, x.square()])  # another batch size, other values
    assert close(session.run(None, {"image": other.numpy()})[0], network, other)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]  # weights inside


class Unstable(torch.nn.Module):
    """Gives something else each time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand(1)


def test_an_export_that_differs_is_not_written(tmp_path):
    with pytest.raises(InputError, match="its output differs from the network's by"):
        export_torchscript(Unstable(), torch.zeros(1, 1, 4), tmp_path / "model.ts")
    assert not list(tmp_path.iterdir())
