"""CUT's and QS-Attn's losses against the order of steps of the authors' code, and where their gradients go."""

import pytest
import torch
from torch.nn import functional as F

from crossmoda.engines import CUT, QSAttn
from crossmoda.engines.translation import frozen
from crossmoda.networks import AntialiasedPatchDiscriminator, PatchProjector, QueryAttention, ResnetGenerator

TAPS = ["padded", "down1", "down2", "block1", "block2"]
POSITIONS = 36  # more than any map but the input holds at 24 x 24 and stride 4, so that all of those count


def objective(cls=CUT, **options):
    torch.manual_seed(0)
    # Wide enough that no position is dead in all channels: a vector of zeros has no direction, and no gradient.
    generator = ResnetGenerator(features=12, n_blocks=3, antialiased=True, init="kaiming")
    return cls(
        generator=generator,
        discriminator=AntialiasedPatchDiscriminator(features=4, init="kaiming"),
        projector=PatchProjector(generator.tap_channels(TAPS), features=32, init="kaiming"),
        nce_layers=TAPS,
        n_patches=POSITIONS,
        **options,
    )


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return {name: torch.rand(2, 1, 24, 24) * 2 - 1 for name in ("source", "target")}


def fixed_positions(monkeypatch):
    """Every random draw takes the first positions."""
    monkeypatch.setattr(torch, "randperm", lambda n, **_: torch.arange(n))


def has_gradient(network):
    return any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def reference_nce(objective, source, translated, mix=None, flipped=False):
    """Mean over images and layers, keys first, each image encoded anew, as the authors' code goes about it."""
    keys = objective.generator.encode_taps(source, TAPS)
    queries = objective.generator.encode_taps(translated, TAPS)
    if flipped:
        queries = [q.flip(-2) for q in queries]
    total = 0
    for layer, (key, query) in enumerate(zip(keys, queries, strict=True)):
        k, q = (m.permute(0, 2, 3, 1).flatten(1, 2) for m in (key, query))
        if mix and layer >= 3:
            k, q = mix(k, k), mix(k, q)
        else:
            k, q = k[:, :POSITIONS], q[:, :POSITIONS]
        head = objective.projector.heads[layer]
        k, q = (F.normalize(head(rows), dim=-1) for rows in (k, q))
        logits = q @ k.detach().transpose(1, 2) / 0.07
        own = torch.arange(q.shape[1]).repeat(len(q))
        total = total + F.cross_entropy(logits.flatten(0, 1), own)
    return total / len(TAPS)


def test_cut_losses_equal_the_formulas(batch, monkeypatch):
    cut = objective(lambda_nce=3.0)
    fixed_positions(monkeypatch)
    x, y, G, D = batch["source"], batch["target"], cut.generator, cut.discriminator
    real, fake = (D(y)[-1] - 1).square().mean(), D(G(x))[-1].square().mean()
    torch.testing.assert_close(cut.discriminator_loss(batch), {"discriminator_target": (real + fake) / 2})
    losses = cut.generator_loss(batch)
    expected = {
        "adversarial_target": (D(G(x))[-1] - 1).square().mean(),
        "nce_source": 3 * reference_nce(cut, x, G(x)) / 2,
        "nce_target": 3 * reference_nce(cut, y, G(y)) / 2,
    }
    torch.testing.assert_close(losses, expected)


def test_gradients_equal_those_of_the_formulas(batch, monkeypatch):
    cut = objective()
    fixed_positions(monkeypatch)
    x, y, G, D = batch["source"], batch["target"], cut.generator, cut.discriminator
    parameters = cut.generator_parameters()
    cut.discriminator_loss(batch)
    gradients = torch.autograd.grad(sum(cut.generator_loss(batch).values()), parameters)
    nce = (reference_nce(cut, x, G(x)) + reference_nce(cut, y, G(y))) / 2
    expected = torch.autograd.grad((D(G(x))[-1] - 1).square().mean() + nce, parameters)
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_fastcut_weighs_the_source_alone(batch, monkeypatch):
    cut = objective(lambda_nce=10.0, identity_nce=False)
    fixed_positions(monkeypatch)
    cut.discriminator_loss(batch)
    losses = cut.generator_loss(batch)
    x = batch["source"]
    assert list(losses) == ["adversarial_target", "nce_source"]
    torch.testing.assert_close(losses["nce_source"], 10 * reference_nce(cut, x, cut.generator(x)))


def test_flip_equivariance_mirrors_the_input_and_the_features_back(batch, monkeypatch):
    cut = objective(flip_equivariance=True, identity_nce=False)
    fixed_positions(monkeypatch)
    monkeypatch.setattr(torch, "rand", lambda _: torch.tensor(0.1))  # below 0.5
    x, D = batch["source"], cut.discriminator
    cut.discriminator_loss(batch)
    losses = cut.generator_loss(batch)
    fake = cut.generator(x.flip(-2))
    torch.testing.assert_close(losses["adversarial_target"], (D(fake)[-1] - 1).square().mean())
    torch.testing.assert_close(losses["nce_source"], reference_nce(cut, x, fake, flipped=True))


def test_half_of_the_steps_are_mirrored(batch):
    cut = objective(flip_equivariance=True, identity_nce=False)
    flips = [cut._translate(batch).flipped for _ in range(40)]
    assert 8 < sum(flips) < 32


def global_mix(keys, rows):
    matrix = (keys @ keys.transpose(1, 2)).softmax(-1)
    order = (-(matrix * matrix.clamp(min=1e-38).log()).sum(-1)).argsort(1)[:, :POSITIONS]
    return matrix.gather(1, order[..., None].expand(-1, -1, matrix.shape[2])) @ rows


def test_qs_attn_mixes_the_two_deepest_layers(batch):
    # All 36 positions of the deepest maps are taken, so that ties of their entropies do not matter.
    qs = objective(QSAttn, attention=QueryAttention(count=POSITIONS))
    torch.manual_seed(3)
    qs.discriminator_loss(batch)
    losses = qs.generator_loss(batch)
    cut = objective(CUT)
    torch.manual_seed(3)
    cut.discriminator_loss(batch)
    assert losses["nce_source"].item() != pytest.approx(cut.generator_loss(batch)["nce_source"].item(), rel=1e-4)


def test_qs_attn_loss_equals_the_formula(batch, monkeypatch):
    qs = objective(QSAttn, attention=QueryAttention(count=POSITIONS))
    fixed_positions(monkeypatch)
    x, y = batch["source"], batch["target"]
    qs.discriminator_loss(batch)
    losses = qs.generator_loss(batch)
    torch.testing.assert_close(losses["nce_source"], reference_nce(qs, x, qs.generator(x), global_mix) / 2)
    torch.testing.assert_close(losses["nce_target"], reference_nce(qs, y, qs.generator(y), global_mix) / 2)


def test_qs_attn_gradients_equal_those_of_the_formula(batch, monkeypatch):
    qs = objective(QSAttn, attention=QueryAttention(count=POSITIONS), identity_nce=False)
    fixed_positions(monkeypatch)
    parameters = qs.generator_parameters()
    qs.discriminator_loss(batch)
    gradients = torch.autograd.grad(qs.generator_loss(batch)["nce_source"], parameters)
    x = batch["source"]
    expected = torch.autograd.grad(reference_nce(qs, x, qs.generator(x), global_mix), parameters)
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("attention", ["global", "local", "local_global"])
def test_each_attention_trains(batch, attention):
    qs = objective(QSAttn, attention=QueryAttention(attention, POSITIONS))
    qs.discriminator_loss(batch)
    sum(qs.generator_loss(batch).values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in qs.generator_parameters())


def test_generator_loss_reaches_generator_and_heads_and_not_the_frozen_discriminator(batch):
    cut = objective()
    cut.discriminator_loss(batch)
    with frozen(cut.discriminator_parameters()):
        sum(cut.generator_loss(batch).values()).backward()
    assert has_gradient(cut.generator)
    assert all(has_gradient(head) for head in cut.projector.heads)
    assert not has_gradient(cut.discriminator)


def test_discriminator_loss_reaches_the_discriminator_only(batch):
    cut = objective()
    sum(cut.discriminator_loss(batch).values()).backward()
    assert has_gradient(cut.discriminator)
    assert not has_gradient(cut.generator)
    assert not has_gradient(cut.projector)


def test_nothing_runs_twice(batch):
    cut = objective()
    calls = {"stem": 0, "head": 0, "discriminator": 0, "last block": 0}

    def count(name):
        def hook(*_):
            calls[name] += 1

        return hook

    cut.generator.stem[1].register_forward_hook(count("stem"))
    cut.generator.head.register_forward_hook(count("head"))
    cut.generator.blocks[2].register_forward_hook(count("last block"))
    cut.discriminator.register_forward_hook(count("discriminator"))
    cut.discriminator_loss(batch)
    cut.generator_loss(batch)
    # One translation, one encoding of the translations up to the last tap; the discriminator before and after its step.
    assert calls == {"stem": 2, "head": 1, "last block": 1, "discriminator": 2}


def test_generator_loss_without_translations_says_so(batch):
    with pytest.raises(RuntimeError, match="discriminator_loss must run"):
        objective().generator_loss(batch)


def test_parameters_are_split_without_rest():
    model = objective()
    generator, discriminator = model.generator_parameters(), model.discriminator_parameters()
    assert len({id(p) for p in generator} & {id(p) for p in discriminator}) == 0
    assert {id(p) for p in generator + discriminator} == {id(p) for p in model.parameters()}


def test_trains_at_sizes_that_need_padding_and_under_autocast(batch):
    odd = {name: value[..., :22, :21] for name, value in batch.items()}
    cut = objective(flip_equivariance=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = cut.discriminator_loss(odd) | cut.generator_loss(odd)
    assert all(torch.isfinite(value) and value.dtype == torch.float32 for value in losses.values())
    assert cut.translate(odd["source"]).shape == odd["source"].shape


def test_preview_has_the_columns_of_the_picture(batch):
    assert list(objective().preview(batch)) == ["source", "translated", "target"]
