"""MSF-Net's losses against formulas written out here, and where their gradients go."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from crossmoda.engines import MSFNet
from crossmoda.engines.objectives.base import middle_slice
from crossmoda.engines.objectives.msf_net import dice_ce
from crossmoda.engines.translation import frozen
from crossmoda.networks import MSFDecoder, MSFDiscriminator, MSFGenerator, MSFProxyDecoder


def msf_net(**options):
    torch.manual_seed(0)
    return MSFNet(
        generator=MSFGenerator(3, 4, 1),
        source_decoder=MSFDecoder(3, 4, 1),
        target_discriminator=MSFDiscriminator(3, 4, 2, 32),  # the crop is the slice
        source_discriminator=MSFDiscriminator(3, 4, 2, 32),
        segmenter=MSFProxyDecoder(3, 4, 1),
        parcellator=MSFProxyDecoder(5, 4, 1),
        **options,
    )


@pytest.fixture
def batch():
    torch.manual_seed(1)
    label = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    label[0, 0, 4:12, 4:12] = 1
    label[1, 0, 20:24, 20:24] = 2
    images = {name: torch.rand(2, 3, 32, 32) * 2 - 1 for name in ("source", "target")}
    parcellation = torch.randint(0, 5, (2, 1, 32, 32), dtype=torch.uint8)
    return images | {"source_label": label, "source_parcellation": parcellation}


def losses_of(objective, batch):
    discriminator = objective.discriminator_loss(batch)
    return discriminator, objective.generator_loss(batch)


def has_gradient(network):
    return any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def plain_dice_ce(logits, label, classes):
    """Han's SoftDiceLoss (plus the 1 that MONAI adds) and cross entropy."""
    p, y = logits.softmax(1), F.one_hot(label[:, 0].long(), classes).permute(0, 3, 1, 2).float()
    tp, fp, fn = ((a * b).sum((2, 3)) for a, b in ((p, y), (p, 1 - y), (1 - p, y)))
    dice = (2 * tp + 1) / (2 * tp + fp + fn + 1)
    return 1 - dice.mean() + F.nll_loss(logits.log_softmax(1), label[:, 0].long())


def smooth_l1(a, b):
    d = (a - b).abs()
    return torch.where(d < 1, d * d / 2, d - 0.5).mean()


def test_losses_equal_the_formulas(batch):
    def perceptual(a, b):
        return (a - b).square().mean()

    weights = {"reconstruction": 7.0, "cycle": 3.0, "perceptual": 0.5, "segmentation": 2.0, "parcellation": 4.0}
    objective = msf_net(perceptual=perceptual, **{f"lambda_{name}": value for name, value in weights.items()})
    E, G2, G1 = objective.generator.encoder, objective.generator.decoder, objective.source_decoder
    D2, D1 = objective.target_discriminator, objective.source_discriminator
    x, y, label, parcels = (batch[f"{name}"] for name in ("source", "target", "source_label", "source_parcellation"))
    fake_y, fake_x = G2(E(x)), G1(E(y))
    on_fake = E(fake_y)
    expected_discriminator = {
        "discriminator_target": (D2(y) - 1).square().mean() + D2(fake_y).square().mean(),
        "discriminator_source": (D1(x) - 1).square().mean() + D1(fake_x).square().mean(),
    }
    expected = {
        "adversarial_target": (D2(fake_y) - 1).square().mean(),
        "adversarial_source": (D1(fake_x) - 1).square().mean(),
        "reconstruction_source": 7 * smooth_l1(G1(E(x)), x),
        "reconstruction_target": 7 * smooth_l1(G2(E(y)), y),
        "cycle_source": 3 * smooth_l1(G1(on_fake), x),
        "cycle_target": 3 * smooth_l1(G2(E(fake_x)), y),
        "perceptual": 0.5 * (perceptual(G1(E(x)), x) + perceptual(G2(E(y)), y)),
        "segmentation_source": 2 * plain_dice_ce(objective.segmenter(E(x)), label, 3),
        "segmentation_fake": 2 * plain_dice_ce(objective.segmenter(on_fake), label, 3),
        "parcellation_source": 4 * plain_dice_ce(objective.parcellator(E(x)), parcels, 5),
        "parcellation_fake": 4 * plain_dice_ce(objective.parcellator(on_fake), parcels, 5),
    }
    discriminator, generator = losses_of(objective, batch)
    for found, wanted in ((discriminator, expected_discriminator), (generator, expected)):
        assert set(found) == set(wanted)
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_reconstruction_loss_can_be_the_papers_l1(batch):
    objective = msf_net(reconstruction_loss=nn.L1Loss())
    x = batch["source"]
    expected = 10 * (objective.source_decoder(objective.generator.encoder(x)) - x).abs().mean()
    torch.testing.assert_close(losses_of(objective, batch)[1]["reconstruction_source"], expected)


def test_dice_of_a_perfect_and_of_an_absent_class():
    logits = torch.full((1, 2, 2, 2), -50.0)
    logits[:, 0] = 50.0
    # Background found whole (Dice 1), the other class absent and not found (Dice 1 by the smoothing).
    assert float(dice_ce()(logits, torch.zeros(1, 1, 2, 2))) == pytest.approx(0, abs=1e-6)


def test_terms_without_weight_or_weights_are_absent(batch):
    del batch["source_parcellation"]
    names = losses_of(msf_net(lambda_parcellation=0.0), batch)[1]
    assert not any("parcellation" in name or "perceptual" in name for name in names)
    objective = msf_net(lambda_parcellation=0.0, lambda_segmentation=0.0)
    assert not any("segmentation" in name for name in losses_of(objective, batch)[1])
    assert objective.segment(batch["target"]) is None
    assert objective.parcellator is None
    assert set(objective.preview(batch)) == {"source", "translated", "cycle", "target"}


def test_discriminator_step_trains_the_discriminators_alone(batch):
    objective = msf_net()
    torch.stack(list(objective.discriminator_loss(batch).values())).sum().backward()
    assert has_gradient(objective.target_discriminator)
    assert has_gradient(objective.source_discriminator)
    assert all(p.grad is None for p in objective.generator_parameters())


def test_generator_step_trains_everything_but_the_discriminators(batch):
    objective = msf_net()
    objective.discriminator_loss(batch)
    with frozen(objective.discriminator_parameters()):
        torch.stack(list(objective.generator_loss(batch).values())).sum().backward()
    parts = (objective.generator.encoder, objective.generator.decoder, objective.source_decoder)
    assert all(map(has_gradient, (*parts, objective.segmenter, objective.parcellator)))
    assert all(p.grad is None for p in objective.discriminator_parameters())


@pytest.mark.parametrize(
    ("term", "reached"),
    [
        ("adversarial_target", {"encoder", "decoder"}),
        ("adversarial_source", {"encoder", "source_decoder"}),
        ("reconstruction_source", {"encoder", "source_decoder"}),
        ("reconstruction_target", {"encoder", "decoder"}),
        ("cycle_source", {"encoder", "decoder", "source_decoder"}),
        ("segmentation_source", {"encoder", "segmenter"}),
        ("segmentation_fake", {"encoder", "segmenter", "decoder"}),
        ("parcellation_fake", {"encoder", "parcellator", "decoder"}),
    ],
)
def test_each_term_reaches_its_networks(batch, term, reached):
    objective = msf_net()
    networks = {
        "encoder": objective.generator.encoder,
        "decoder": objective.generator.decoder,
        "source_decoder": objective.source_decoder,
        "segmenter": objective.segmenter,
        "parcellator": objective.parcellator,
    }
    losses_of(objective, batch)[1][term].backward()
    # Networks that a shared pass only carries along may get a gradient of exactly 0.
    assert {name for name, network in networks.items() if has_gradient(network)} == reached


def test_the_translations_judged_are_those_that_the_generators_learn_from(batch):
    objective = msf_net()
    calls = []
    objective.generator.encoder.register_forward_hook(lambda *_: calls.append(1))
    losses_of(objective, batch)
    assert len(calls) == 2  # both modalities there, both back
    with pytest.raises(RuntimeError, match="discriminator_loss must run"):
        objective.generator_loss(batch)


def test_sizes_that_4_does_not_divide(batch):
    batch = {name: value[..., :30, :27] for name, value in batch.items()}
    _, losses = losses_of(msf_net(), batch)
    assert all(torch.isfinite(value) for value in losses.values())


def test_segment_and_preview_show_the_middle_slice(batch):
    objective = msf_net()
    labels = objective.segment(batch["target"])
    assert labels.shape == (2, 1, 32, 32)
    assert torch.equal(labels, objective.segmenter(objective.generator.encoder(batch["target"])).argmax(1, True))
    columns = objective.preview(batch)
    names = ["source", "translated", "cycle", "target", "label", "segmented", "parcellation", "parcelled"]
    assert list(columns) == names
    assert all(column.shape == (2, 1, 32, 32) for column in columns.values())
    assert torch.equal(columns["source"], batch["source"][:, 1:2])
    assert columns["parcellation"].max() <= 1
    assert torch.equal(middle_slice(batch["source"][:, :1]), batch["source"][:, :1])
