"""Exports of each bundle's default network give what the network gives."""

from __future__ import annotations

import subprocess
import sys

import onnxruntime
import pytest
import torch
import yaml
from packaging_cases import ROOT, TINY, tiny

from crossmoda.bundle import config_path, flatten_config
from crossmoda.errors import InputError
from crossmoda.packaging.export import TOLERANCE, example_input, export_onnx, export_torchscript
from crossmoda.packaging.weights import build_network, read_weights

SCRIPT = str(ROOT / "scripts" / "export_network.py")
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


METHODS = {
    "msf_net": ("translation", TINY["translation"], [40, 32]),  # three slices as channels
    "vs_seg": ("segmentation-2.5d", {"network_def::channels": [4, 4, 4, 4, 4, 4]}, [64, 64, 16]),
    "chen2023": ("segmentation-2.5d", {"features": 4, "blocks": 1}, [32, 32, 8]),
    "li2021_attention": ("segmentation-3d", {"network_def::channels": [4, 4, 4, 4, 4]}, [32, 32, 16]),
}


@pytest.mark.parametrize("method", METHODS)
def test_command_exports_a_method(method, tmp_path):
    name, sizes, shape = METHODS[method]
    overlay, weights = tmp_path / "sizes.yaml", tmp_path / "model.pt"
    overlay.write_text(yaml.safe_dump(sizes))
    overlays = ["li2021", method] if method == "li2021_attention" else [method]
    root = ROOT / "bundles" / name
    network = build_network(flatten_config([config_path(root, item) for item in ("inference", *overlays)] + [overlay]))
    torch.save(network.state_dict(), weights)
    command = [sys.executable, SCRIPT, name, "--method", overlays[0]]
    command += ["--overlays", *overlays[1:], str(overlay), "--weights", str(weights), "--shape", *map(str, shape)]
    command += ["--onnx", str(tmp_path / "x.onnx")]

    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    x = example_input([1, *session.get_inputs()[0].shape[1:]], seed=1)
    assert close(session.run(None, {"image": x.numpy()})[0], network.eval(), x)


def test_command_names_a_shape_that_does_not_fit(tmp_path):
    overlay, weights = tiny("segmentation-2.5d", tmp_path)
    command = [sys.executable, SCRIPT, "segmentation-2.5d", "--overlays", str(overlay)]
    command += ["--weights", str(weights), "--shape", "33", "32", "8", "--torchscript", str(tmp_path / "x.ts")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.startswith("error: the network takes no --shape [33, 32, 8]")
    assert not (tmp_path / "x.ts").exists()


class Unstable(torch.nn.Module):
    """Gives something else each time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand(1)


def test_an_export_that_differs_is_not_written(tmp_path):
    with pytest.raises(InputError, match="its output differs from the network's by"):
        export_torchscript(Unstable(), torch.zeros(1, 1, 4), tmp_path / "model.ts")
    assert not list(tmp_path.iterdir())
