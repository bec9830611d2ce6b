"""The site-conditioned CycleGAN against formulas written out here, with codes made by hand."""

import pytest
import torch
from monai.networks.nets import PatchDiscriminator

from crossmoda.engines import SiteCycleGAN
from crossmoda.engines.translation import frozen
from crossmoda.networks import SiteGenerator

SITES = ["ldn", "etz"]


def make(**options):
    torch.manual_seed(0)
    generators = [SiteGenerator(SITES, "ldn", features=4, n_blocks=1) for _ in range(2)]
    for generator in generators:
        for name, parameter in generator.named_parameters():
            if ".norm." in name:
                torch.nn.init.normal_(parameter, 1.0, 0.3)
    discriminators = [PatchDiscriminator(2, 4, 1, 2, num_layers_d=2, norm="INSTANCE", bias=True) for _ in range(2)]
    return SiteCycleGAN(
        *generators, target_discriminator=discriminators[0], source_discriminator=discriminators[1], **options
    )


@pytest.fixture
def batch():
    torch.manual_seed(1)
    images = {name: torch.rand(3, 1, 24, 28) * 2 - 1 for name in ("source", "target")}
    sites = {"source_site": torch.tensor([0, 1, 1]), "target_site": torch.tensor([0, 0, 1])}
    return images | sites | {"source_label": torch.zeros(3, 1, 24, 28)}


CODES = {"source": torch.tensor([[1.0, 0], [0, 1], [0, 1]]), "target": torch.tensor([[1.0, 0], [1, 0], [0, 1]])}


def judged(discriminator, image, domain):
    """The logits of each slice for the site that it ought to be of."""
    places = {"source": [0, 1, 1], "target": [0, 0, 1]}[domain]
    logits = discriminator(image)[-1]
    assert logits.shape[1] == 2
    return torch.stack([logits[i, place] for i, place in enumerate(places)])


def test_losses_equal_the_formulas(batch):
    objective = make(lambda_cycle=7.0, lambda_identity=3.0)
    G, R = objective.generator, objective.reverse_generator
    D_t, D_s = objective.target_discriminator, objective.source_discriminator
    x, y, s, t = batch["source"], batch["target"], CODES["source"], CODES["target"]
    losses = objective.generator_loss(batch)
    expected = {
        "adversarial_target": (judged(D_t, G(x, t), "target") - 1).square().mean(),
        "adversarial_source": (judged(D_s, R(y, s), "source") - 1).square().mean(),
        "cycle_source": 7 * (R(G(x, t), s) - x).abs().mean(),
        "cycle_target": 7 * (G(R(y, s), t) - y).abs().mean(),
        "identity_target": 3 * (G(y, t) - y).abs().mean(),
        "identity_source": 3 * (R(x, s) - x).abs().mean(),
    }
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)

    losses = objective.discriminator_loss(batch)
    for domain, D, real, fake in (("target", D_t, y, G(x, t)), ("source", D_s, x, R(y, s))):
        value = (judged(D, real, domain) - 1).square().mean() + judged(D, fake, domain).square().mean()
        torch.testing.assert_close(losses[f"discriminator_{domain}"], value / 2)


def test_pool_keeps_each_translations_code(batch):
    objective = make(pool_size=3)
    objective.generator_loss(batch)
    objective.discriminator_loss(batch)
    assert torch.equal(torch.stack(objective.target_pool.images)[:, 1:, 0, 0], CODES["target"])
    assert torch.equal(torch.stack(objective.source_pool.images)[:, 1:, 5, 7], CODES["source"])


def test_gradients_go_where_they_must(batch):
    objective = make()
    with frozen(objective.discriminator_parameters()):
        sum(objective.generator_loss(batch).values()).backward()
    assert all(p.grad is not None for p in objective.generator_parameters())
    assert all(p.grad is None for p in objective.discriminator_parameters())
    for parameter in objective.parameters():
        parameter.grad = None
    sum(objective.discriminator_loss(batch).values()).backward()
    assert all(p.grad is None for p in objective.generator_parameters())
    assert all(p.grad is not None for p in objective.discriminator_parameters())


def test_validation_translates_into_the_target_slices_site(batch):
    objective = make().eval()
    x = batch["source"]
    out = objective.translate(x, **objective.conditions(batch))
    torch.testing.assert_close(out, objective.generator(x, CODES["target"]))
    torch.testing.assert_close(objective.translate(x), objective.generator(x, torch.tensor([[1.0, 0.0]])))


def test_preview_shows_each_site(batch):
    columns = make().eval().preview(batch)
    assert list(columns) == ["source", "translated_0", "translated_1", "target"]
    assert not torch.allclose(columns["translated_0"], columns["translated_1"])


def test_batches_without_sites_are_refused(batch):
    batch.pop("target_site")
    with pytest.raises(ValueError, match="batches hold no sites"):
        make().generator_loss(batch)
