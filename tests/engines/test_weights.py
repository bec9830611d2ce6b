"""Weights for inference: right, or one clear line."""

import pytest
import torch

from crossmoda.engines import load_weights
from crossmoda.errors import InputError


def test_loads(tmp_path):
    network, other = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    load_weights(other, tmp_path / "model.pt")
    assert torch.equal(network.weight, other.weight)


def test_faults_name_the_file(tmp_path):
    path = tmp_path / "model.pt"
    with pytest.raises(InputError, match=r"model\.pt is missing"):
        load_weights(torch.nn.Linear(2, 1), path)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"model\.pt is not a checkpoint"):
        load_weights(torch.nn.Linear(2, 1), path)
    torch.save(torch.nn.Linear(3, 1).state_dict(), path)
    with pytest.raises(InputError, match=r"model\.pt is of another network"):
        load_weights(torch.nn.Linear(2, 1), path)
