"""Query-selected attention against whole matrices computed position by position, and a case by hand."""

import math

import pytest
import torch

from crossmoda.errors import InputError
from crossmoda.networks import QueryAttention


def rows_of(maps):
    """(B, C, H, W) -> (B, HW, C)."""
    return maps.flatten(2).transpose(1, 2)


def global_matrix(maps):
    rows = rows_of(maps)
    return (rows @ rows.transpose(1, 2)).softmax(-1)


def local_matrix(maps, window=7):
    """Weights of each position's neighbourhood, as a matrix over all positions; what lies outside is a zero vector."""
    count, _, height, width = maps.shape
    matrix = torch.zeros(count, height * width, height * width)
    entropy = torch.zeros(count, height * width)
    half = window // 2
    for b in range(count):
        for y in range(height):
            for x in range(width):
                logits, places = [], []
                for v in range(y - half, y + half + 1):
                    for u in range(x - half, x + half + 1):
                        inside = 0 <= v < height and 0 <= u < width
                        logits.append(maps[b, :, y, x] @ maps[b, :, v, u] if inside else torch.tensor(0.0))
                        places.append(v * width + u if inside else None)
                weights = torch.stack(logits).softmax(0)
                entropy[b, y * width + x] = -(weights * weights.log()).sum()
                for weight, place in zip(weights, places, strict=True):
                    if place is not None:
                        matrix[b, y * width + x, place] = weight
    return matrix, entropy


def expected_choice(maps, mode):
    if mode == "global":
        matrix = global_matrix(maps)
        entropy = -(matrix * matrix.log()).sum(-1)
    else:
        matrix, entropy = local_matrix(maps)
        matrix = global_matrix(maps) if mode == "local_global" else matrix
    return matrix, entropy.argsort(1)


@pytest.fixture
def maps():
    torch.manual_seed(0)
    return torch.randn(2, 5, 9, 8) * 0.7, torch.randn(2, 5, 9, 8)


@pytest.mark.parametrize("mode", ["global", "local", "local_global"])
def test_rows_of_least_entropy_mix_both_maps(maps, mode):
    keys, queries = maps
    attention = QueryAttention(mode, count=20, part=13)
    matrix, order = expected_choice(keys, mode)
    index = attention.select(keys)
    assert torch.equal(index, order[:, :20])
    mixed_keys, mixed_queries = attention(keys, queries)
    chosen = matrix.gather(1, order[:, :20, None].expand(-1, -1, matrix.shape[2]))
    torch.testing.assert_close(mixed_keys, chosen @ rows_of(keys))
    torch.testing.assert_close(mixed_queries, chosen @ rows_of(queries))


def test_by_hand():
    # Three positions with features 2, 0, 1: the second's row is even, the first's is the most decided.
    keys, queries = torch.tensor([2.0, 0.0, 1.0]).view(1, 1, 1, 3), torch.tensor([0.0, 3.0, 5.0]).view(1, 1, 1, 3)
    attention = QueryAttention("global", count=2)
    assert attention.select(keys).tolist() == [[0, 2]]
    exponentials = [[math.exp(4), 1, math.exp(2)], [math.exp(2), 1, math.exp(1)]]
    expected = [(3 * e[1] + 5 * e[2]) / sum(e) for e in exponentials]
    assert attention(keys, queries)[1].flatten().tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mode", ["global", "local", "local_global"])
def test_gradients_reach_queries_and_through_the_weights_keys(maps, mode):
    keys, queries = (m.clone().requires_grad_() for m in maps)
    mixed_keys, mixed_queries = QueryAttention(mode, count=6)(keys, queries)
    assert not mixed_keys.requires_grad
    mixed_queries.square().sum().backward()
    assert queries.grad.abs().sum() > 0
    assert keys.grad.abs().sum() > 0


def test_gradient_of_keys_is_that_of_the_whole_matrix(maps):
    keys, again = (maps[0].clone().requires_grad_() for _ in range(2))
    QueryAttention("global", count=6)(keys, maps[1])[1].square().sum().backward()
    matrix = global_matrix(again)
    order = (-(matrix * matrix.log()).sum(-1)).argsort(1)[:, :6, None].expand(-1, -1, matrix.shape[2])
    (matrix.gather(1, order) @ rows_of(maps[1])).square().sum().backward()
    torch.testing.assert_close(keys.grad, again.grad)


@pytest.mark.parametrize("mode", ["global", "local"])
def test_one_hot_rows_are_finite_and_chosen_at_random(mode):
    keys = torch.randn(1, 64, 8, 8) * 30  # dot products in the ten thousands: every row is one-hot, every entropy 0
    torch.manual_seed(0)
    attention = QueryAttention(mode, count=10)
    first, second = attention.select(keys), attention.select(keys)
    assert not torch.equal(first.sort().values, second.sort().values)
    assert all(torch.isfinite(m).all() for m in attention(keys, keys))


def test_fewer_positions_than_asked_for_are_all_taken():
    keys = torch.randn(1, 3, 4, 4)
    assert QueryAttention("global", count=256).select(keys).sort().values.tolist() == [list(range(16))]


def test_another_mode_is_refused():
    with pytest.raises(InputError, match="global, local, local_global, but is 'both'"):
        QueryAttention("both")
