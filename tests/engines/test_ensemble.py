"""Several weights of one network in one inference."""

from pathlib import Path

import pytest
import torch
from monai.inferers import SimpleInferer, SlidingWindowInferer

from crossmoda.engines import EnsembleInferer, MirrorInferer, load_members
from crossmoda.errors import InputError


def make_network(seed):
    torch.manual_seed(seed)
    return torch.nn.Conv3d(1, 3, 3, padding=1)


@pytest.fixture
def paths(tmp_path):
    for seed in range(3):
        torch.save(make_network(seed).state_dict(), tmp_path / f"{seed}.pt")
    return [tmp_path / f"{seed}.pt" for seed in range(3)]


@torch.no_grad()
def test_mean_of_the_members_probabilities(paths):
    x = 5 * torch.randn(2, 1, 5, 6, 7)
    expected = sum(make_network(seed)(x).softmax(1) for seed in range(3)) / 3
    out = EnsembleInferer(SimpleInferer(), paths)(x, make_network(9))
    torch.testing.assert_close(out.softmax(1), expected)
    torch.testing.assert_close(out.exp(), expected)


@torch.no_grad()
def test_each_member_runs_the_whole_inner_inferer(paths):
    x = torch.randn(1, 1, 8, 6, 7)
    inner = MirrorInferer(SlidingWindowInferer((4, 6, 7), overlap=0.5), axes=(0,))
    expected = sum(inner(x, make_network(seed)).softmax(1) for seed in range(3)) / 3
    torch.testing.assert_close(EnsembleInferer(inner, paths)(x, make_network(9)).softmax(1), expected)


@torch.no_grad()
@pytest.mark.parametrize("none", [None, []])
def test_without_paths_the_logits_stay(none):
    x, network = torch.randn(1, 1, 4, 4, 4), make_network(5)
    assert torch.equal(EnsembleInferer(SimpleInferer(), none)(x, network), network(x))


@torch.no_grad()
@pytest.mark.parametrize("kind", [str, Path])
def test_one_path_needs_no_list(kind, paths):
    x, network = torch.randn(1, 1, 4, 4, 4), make_network(9)
    load_members(network, kind(paths[1]))
    assert torch.equal(network.weight, make_network(1).weight)
    out = EnsembleInferer(SimpleInferer(), kind(paths[2]))(x, network)
    torch.testing.assert_close(out.exp(), make_network(2)(x).softmax(1))


def test_impossible_classes_give_finite_logits(tmp_path):
    network = torch.nn.Conv3d(1, 2, 1)
    torch.nn.init.constant_(network.weight, 0)
    network.bias.data = torch.tensor([0.0, -300.0])
    torch.save(network.state_dict(), tmp_path / "a.pt")
    out = EnsembleInferer(SimpleInferer(), [tmp_path / "a.pt"])(torch.zeros(1, 1, 2, 2, 2), network)
    assert torch.isfinite(out).all()
    torch.testing.assert_close(out.softmax(1)[:, 1], torch.zeros(1, 2, 2, 2))


def test_a_faulty_member_is_known_at_once(paths, tmp_path):
    network = make_network(9)
    load_members(network, paths)
    torch.save(torch.nn.Conv3d(1, 2, 3).state_dict(), paths[1])
    with pytest.raises(InputError, match=r"1\.pt is of another network"):
        load_members(network, paths)
    with pytest.raises(InputError, match=r"none\.pt is missing"):
        load_members(network, [paths[0], tmp_path / "none.pt"])
