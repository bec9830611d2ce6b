"""What the tests of packages share: tiny networks with weights, and a Python without the repository's crossmoda."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
import yaml

from crossmoda.bundle import config_path, flatten_config
from crossmoda.packaging.weights import build_network

ROOT = Path(__file__).resolve().parents[1]

# Overlays that make each bundle's network small; sizes as in the bundles' own tests.
TINY = {
    "segmentation-2.5d": {
        "threads": 1,
        "amp": False,
        "progress": False,
        "localise": False,
        "spacing": [0.8, 0.8, 1.7],
        "patch_size": [32, 32, 8],
        "network_def::channels": [4, 4, 4, 4, 4],
    },
    "segmentation-3d": {
        "threads": 1,
        "amp": False,
        "progress": False,
        "localise": False,
        "spacing": [0.8, 0.8, 1.7],
        "patch_size": [32, 32, 8],
        "strides": [[1, 1, 1], [2, 2, 1], [2, 2, 2]],
        "kernel_sizes": [[3, 3, 1], [3, 3, 3], [3, 3, 3]],
        "features": [4, 6, 8],
        "deep_supervision_heads": 1,
    },
    "translation": {
        "threads": 1,
        "amp": False,
        "progress": False,
        "pixdim": [1.0, 1.0, 1.7],
        "roi_size": [32, 32, 8],
        "features": 4,
        "n_blocks": 1,
    },
}

# Runs the rest of the words as `python` would, after the repository's crossmoda was made unimportable.
ELSEWHERE = """
import importlib.util, runpy, sys
sys.meta_path = [item for item in sys.meta_path if "editable" not in str(getattr(item, "__module__", item)).lower()]
sys.path = [item for item in sys.path if item and not item.startswith({root!r} + "/shared")]
assert importlib.util.find_spec("crossmoda") is None, "the repository's crossmoda is importable"
sys.argv = sys.argv[1:]
if sys.argv[0] == "-m":
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    exec(sys.argv[1])
"""


def tiny(name: str, folder: Path) -> tuple[Path, Path]:
    """An overlay with small sizes, and random weights of its network."""
    folder.mkdir(parents=True, exist_ok=True)
    overlay, weights = folder / "tiny.yaml", folder / "model.pt"
    overlay.write_text(yaml.safe_dump(TINY[name]))
    root = ROOT / "bundles" / name
    torch.manual_seed(0)
    network = build_network(flatten_config([config_path(root, "inference"), overlay]))
    for value in network.buffers():  # batch norm that has seen something
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
    if name != "translation":
        balance(network)
    torch.save(network.state_dict(), weights)
    return overlay, weights


def tumour_weights(folder: Path) -> Path:
    """Random weights of the small segmentation-2.5d that mark a tumour."""
    _, weights = tiny("segmentation-2.5d", folder)
    state = torch.load(weights, weights_only=True)
    for value in [tensor for tensor in state.values() if tensor.shape == (3,)]:  # biases of the last layer
        value += torch.tensor([0.0, 1.0, 0.0])
    torch.save(state, weights)
    return weights


def balance(network: torch.nn.Module) -> None:
    """Shift the biases of the last layer so that a random network answers with all classes."""
    with torch.no_grad():
        x = torch.rand(1, 1, 32, 32, 8)
        logits = network(x).mean(dim=(0, 2, 3, 4))
        for bias in [item for item in network.parameters() if item.shape == logits.shape]:
            before = bias.clone()
            bias.sub_(logits)
            if network(x).mean(dim=(0, 2, 3, 4)).abs().max() > 1e-3:
                bias.copy_(before)  # not of the last layer


def python_elsewhere(*words: str, cwd: Path) -> str:
    """Standard output of `python WORDS` in which the repository's crossmoda cannot be imported."""
    command = [sys.executable, "-P", "-c", ELSEWHERE.format(root=str(ROOT)), *words]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=180, cwd=cwd)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
