"""CycleGAN's losses against formulas written out here, and where their gradients go."""

import pytest
import torch
from monai.networks.nets import PatchDiscriminator
from torch.nn import functional as F

from crossmoda.engines import CycleGAN, CycleGANSegmenter
from crossmoda.engines.translation import frozen
from crossmoda.networks import ResnetGenerator, UNetDecoder, UNetGenerator


def patchgan():
    return PatchDiscriminator(2, 4, 1, num_layers_d=2, norm="INSTANCE", bias=True)


def cyclegan(**options):
    torch.manual_seed(0)
    generators = {
        "generator": ResnetGenerator(features=4, n_blocks=1),
        "reverse_generator": ResnetGenerator(features=4, n_blocks=1),
    }
    return CycleGAN(**generators, target_discriminator=patchgan(), source_discriminator=patchgan(), **options)


def cyclegan_segmenter(**options):
    torch.manual_seed(0)
    generator, reverse = UNetGenerator(features=4, levels=2), UNetGenerator(features=4, levels=2)
    return CycleGANSegmenter(
        source_segmenter=UNetDecoder(generator.feature_channels, 3),
        target_segmenter=UNetDecoder(generator.feature_channels, 3),
        generator=generator,
        reverse_generator=reverse,
        target_discriminator=patchgan(),
        source_discriminator=patchgan(),
        **options,
    )


@pytest.fixture
def batch():
    torch.manual_seed(1)
    label = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    label[0, 0, 4:12, 4:12] = 1
    label[1, 0, 20:24, 20:24] = 2
    images = {name: torch.rand(2, 1, 32, 32) * 2 - 1 for name in ("source", "target")}
    return images | {"source_label": label}


def has_gradient(network):
    return any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_cyclegan_losses_equal_the_formulas(batch):
    objective = cyclegan(lambda_cycle=7.0, lambda_identity=3.0, lambda_kspace=2.0)
    G, R = objective.generator, objective.reverse_generator
    D_t, D_s = objective.target_discriminator, objective.source_discriminator
    x, y = batch["source"], batch["target"]
    losses = objective.generator_loss(batch)
    expected = {
        "adversarial_target": (D_t(G(x))[-1] - 1).square().mean(),
        "adversarial_source": (D_s(R(y))[-1] - 1).square().mean(),
        "cycle_source": 7 * (R(G(x)) - x).abs().mean(),
        "cycle_target": 7 * (G(R(y)) - y).abs().mean(),
        "identity_target": 3 * (G(y) - y).abs().mean(),
        "identity_source": 3 * (R(x) - x).abs().mean(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)
    assert set(losses) - set(expected) == {"kspace_source", "kspace_target"}

    losses = objective.discriminator_loss(batch)
    for name, D, real, fake in (("target", D_t, y, G(x)), ("source", D_s, x, R(y))):
        expected = ((D(real)[-1] - 1).square().mean() + D(fake)[-1].square().mean()) / 2
        torch.testing.assert_close(losses[f"discriminator_{name}"], expected)


def test_identity_weight_0_leaves_the_term_out(batch):
    assert not any("identity" in name for name in cyclegan(lambda_identity=0).generator_loss(batch))


def test_discriminator_loss_reaches_discriminators_only(batch):
    objective = cyclegan()
    objective.generator_loss(batch)
    sum(objective.discriminator_loss(batch).values()).backward()
    assert has_gradient(objective.target_discriminator)
    assert has_gradient(objective.source_discriminator)
    assert not has_gradient(objective.generator)
    assert not has_gradient(objective.reverse_generator)


def test_generator_loss_flows_through_frozen_discriminators(batch):
    objective = cyclegan()
    with frozen(objective.discriminator_parameters()):
        losses = objective.generator_loss(batch)
        losses["adversarial_target"].backward()
    assert has_gradient(objective.generator)
    assert not has_gradient(objective.target_discriminator)
    assert not has_gradient(objective.reverse_generator)
    assert all(p.requires_grad for p in objective.parameters())


def test_generators_run_once_a_step_for_both_losses(batch):
    objective = cyclegan(lambda_identity=0)
    calls = []
    objective.generator.register_forward_hook(lambda *_: calls.append(1))
    objective.generator_loss(batch)
    objective.discriminator_loss(batch)
    assert len(calls) == 2  # translation and the target's reconstruction


def test_discriminator_loss_without_translations_says_so(batch):
    with pytest.raises(RuntimeError, match="generator_loss must run"):
        cyclegan().discriminator_loss(batch)


def test_parameters_are_split_without_rest():
    for objective in (cyclegan(), cyclegan_segmenter()):
        generator, discriminator = objective.generator_parameters(), objective.discriminator_parameters()
        assert len({id(p) for p in generator} & {id(p) for p in discriminator}) == 0
        assert {id(p) for p in generator + discriminator} == {id(p) for p in objective.parameters()}


def test_segmentation_losses_equal_dice_plus_cross_entropy(batch):
    objective = cyclegan_segmenter(lambda_segmentation=10.0)
    objective.start_epoch(6)
    losses = objective.generator_loss(batch)
    G, R = objective.generator, objective.reverse_generator
    logits = {
        "segmentation_source": objective.source_segmenter(G.encode(batch["source"])),
        "segmentation_fake": objective.target_segmenter(R.encode(G(batch["source"]))),
    }
    label = batch["source_label"][:, 0].long()
    truth = F.one_hot(label, 3).permute(0, 3, 1, 2).float()
    for name, values in logits.items():
        p = values.softmax(1)
        dims = (0, 2, 3)  # of the whole batch
        dice = (2 * (p * truth).sum(dims) + 1e-5) / (p.sum(dims) + truth.sum(dims) + 1e-5)
        expected = 10 * (1 - dice[1:].mean() + F.cross_entropy(values, label))
        torch.testing.assert_close(losses[name], expected)


def test_segmentation_of_translations_enters_after_5_epochs(batch):
    objective = cyclegan_segmenter()
    objective.start_epoch(5)
    assert "segmentation_fake" not in objective.generator_loss(batch)
    objective.start_epoch(6)
    assert "segmentation_fake" in objective.generator_loss(batch)


def test_segmentation_of_translations_guides_the_generator(batch):
    objective = cyclegan_segmenter()
    objective.start_epoch(6)
    objective.generator_loss(batch)["segmentation_fake"].backward()
    assert has_gradient(objective.generator)
    assert has_gradient(objective.reverse_generator.encoder)
    assert has_gradient(objective.target_segmenter)
    assert not has_gradient(objective.source_segmenter)
    assert not has_gradient(objective.reverse_generator.decoder)


def test_cyclegan_terms_are_the_same_with_segmenters(batch):
    objective = cyclegan_segmenter()
    objective.start_epoch(6)
    losses = objective.generator_loss(batch)
    plain = CycleGAN.generator_loss(objective, batch)
    for name, value in plain.items():
        torch.testing.assert_close(losses[name], value)


def test_segment_gives_labels_at_any_size():
    labels = cyclegan_segmenter().segment(torch.rand(2, 1, 30, 33))
    assert labels.shape == (2, 1, 30, 33)
    assert set(labels.unique().tolist()) <= {0, 1, 2}


def test_segmenter_trains_at_sizes_that_need_padding(batch):
    odd = {name: value[..., :30, :29] for name, value in batch.items()}
    losses = cyclegan_segmenter(fake_segmentation_after=0).generator_loss(odd)
    assert all(torch.isfinite(value) for value in losses.values())


def test_preview_has_the_columns_of_the_picture(batch):
    assert list(cyclegan().preview(batch)) == ["source", "translated", "reconstructed", "target"]
    columns = cyclegan_segmenter().preview(batch)
    assert list(columns) == ["source", "translated", "reconstructed", "target", "label", "segmented"]
    assert all(column.shape == batch["source"].shape for column in columns.values())


def test_state_holds_networks_and_pools(batch):
    objective, other = cyclegan(), cyclegan(seed=5)
    objective.generator_loss(batch)
    objective.discriminator_loss(batch)
    other.load_state_dict(objective.state_dict())
    assert len(other.target_pool.images) == 2
