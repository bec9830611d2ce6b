"""Vote over flipped passes."""

import numpy as np
import pytest
import torch
from monai.inferers import SimpleInferer

from crossmoda.engines import EnsembleInferer, FlipVoteInferer, last_member_labels
from crossmoda.fusion import FlipVote


@pytest.fixture
def network():
    torch.manual_seed(0)
    return torch.nn.Conv3d(1, 3, 3, padding=1)


def majority(labels):
    return np.apply_along_axis(lambda votes: np.bincount(votes, minlength=3).argmax(), 0, np.stack(labels))


@torch.no_grad()
def test_all_eight_flips_vote(network):
    x = torch.rand(2, 1, 4, 5, 6)
    inferer = FlipVoteInferer(SimpleInferer(), majority)
    out = inferer(x, network)
    axes = [dims for n in range(8) for dims in [[axis + 2 for axis in range(3) if n >> axis & 1]]]
    labels = torch.stack([network(x.flip(dims)).flip(dims).argmax(1) for dims in axes])
    np.testing.assert_array_equal(out.argmax(1).numpy(), majority(labels.numpy()))
    assert out.shape == (2, 3, 4, 5, 6)
    assert out.dtype == torch.float32
    assert ((out.softmax(1) > 1 - 1e-6) | (out.softmax(1) < 1e-6)).all()
    votes = torch.stack(last_member_labels(inferer))
    assert sorted(map(torch.Tensor.tolist, votes)) == sorted(map(torch.Tensor.tolist, labels.to(torch.uint8)))


@torch.no_grad()
def test_disabled_it_does_nothing(network):
    x = torch.rand(1, 1, 4, 5, 6)
    inferer = FlipVoteInferer(SimpleInferer(), majority, enabled=False)
    assert torch.equal(inferer(x, network), network(x))
    assert last_member_labels(inferer) == []


@torch.no_grad()
def test_with_chens_vote_inside_an_ensemble(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "a.pt")
    other = torch.nn.Conv3d(1, 3, 3, padding=1)
    torch.save(other.state_dict(), tmp_path / "b.pt")
    x = torch.rand(1, 1, 8, 8, 8)
    inner = FlipVoteInferer(SimpleInferer(), FlipVote())
    single = [inner(x, net).softmax(1) for net in (network, other)]
    paths = [tmp_path / "a.pt", tmp_path / "b.pt"]
    both = EnsembleInferer(inner, paths)(x, network)
    torch.testing.assert_close(both.softmax(1), (single[0] + single[1]) / 2)
