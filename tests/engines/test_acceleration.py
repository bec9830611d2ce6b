"""Memory layout and compilation change how fast an objective is, not what it computes or saves."""

import copy
from functools import partial

import pytest
import torch
from monai.networks.nets import PatchDiscriminator
from torch import nn

from crossmoda.engines import CycleGAN, CycleGANSegmenter, prepare_objective
from crossmoda.networks import ResnetGenerator, UNetDecoder, UNetGenerator


def discriminators():
    return {
        f"{domain}_discriminator": PatchDiscriminator(2, 4, 1, num_layers_d=2, norm="INSTANCE", bias=True)
        for domain in ("target", "source")
    }


def cyclegan():
    torch.manual_seed(0)
    generators = [ResnetGenerator(features=4, n_blocks=1) for _ in range(2)]
    return CycleGAN(*generators, **discriminators(), pool_size=0)


def cyclegan_segmenter():
    torch.manual_seed(0)
    generator, reverse = UNetGenerator(features=4, levels=2), UNetGenerator(features=4, levels=2)
    segmenters = [UNetDecoder(generator.feature_channels, 3) for _ in range(2)]
    options = discriminators() | {"generator": generator, "reverse_generator": reverse, "pool_size": 0}
    return CycleGANSegmenter(*segmenters, fake_segmentation_after=0, **options)


def step(objective):
    """Losses and gradients of one step of both kinds."""
    torch.manual_seed(1)
    batch = {name: torch.rand(2, 1, 24, 24) * 2 - 1 for name in ("source", "target")}
    batch["source_label"] = torch.randint(0, 3, (2, 1, 24, 24))
    losses = objective.generator_loss(batch) | objective.discriminator_loss(batch)
    sum(losses.values()).backward()
    return losses, {name: parameter.grad for name, parameter in objective.named_parameters()}


@pytest.fixture
def counted(monkeypatch):
    """`torch.compile` that traces as ever, then runs the graphs as they are, and counts them."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    yield graphs
    torch._dynamo.reset()


@pytest.mark.parametrize("make", [cyclegan, cyclegan_segmenter])
@pytest.mark.parametrize("options", [{"channels_last": True}, {"compiled": True}], ids=str)
def test_same_losses_gradients_and_state(make, options, counted):
    plain, prepared = make(), prepare_objective(make(), "cpu", **options)
    assert bool(counted) is False  # at the first use
    (losses, gradients), (own_losses, own_gradients) = step(plain), step(prepared)
    assert bool(counted) == bool(options.get("compiled"))
    assert losses.keys() == own_losses.keys()
    for name, value in losses.items():
        torch.testing.assert_close(own_losses[name], value)
    for name, value in gradients.items():
        # A change of 1e-7 in the weights already moves gradients by 1.2 %, through kinks of ReLUs and of L1.
        assert (own_gradients[name] - value).norm() <= 1e-4 + 0.03 * value.norm(), name
    state = plain.state_dict()
    assert list(state) == list(prepared.state_dict())
    prepared.load_state_dict(state)
    plain.load_state_dict(prepared.state_dict())


def test_every_network_is_compiled(counted):
    """A generator's forward, encoder and decoder; segmenters; discriminators."""
    objective = prepare_objective(cyclegan_segmenter(), "cpu", compiled=True)
    step(objective)
    convolutions = sum("conv" in str(node.target) for graph in counted for node in graph.graph.nodes)
    # Graphs are shared between networks of one kind: encoder 6, decoders 2 x (2 x 3 + 1), discriminator 4.
    assert convolutions >= 6 + 14 + 4


def test_channels_last_reaches_the_weights():
    objective = prepare_objective(cyclegan(), "cpu", channels_last=True)
    weights = [m.weight for m in objective.modules() if isinstance(m, nn.Conv2d) and min(m.weight.shape[:2]) > 1]
    assert weights
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    copied = copy.deepcopy(objective.generator.state_dict())
    ResnetGenerator(features=4, n_blocks=1).load_state_dict(copied)


@pytest.mark.slow
def test_compiled_for_the_cpu():
    plain, compiled = cyclegan(), prepare_objective(cyclegan(), "cpu", channels_last=True, compiled=True)
    (losses, gradients), (own_losses, own_gradients) = step(plain), step(compiled)
    for name, value in losses.items():
        torch.testing.assert_close(own_losses[name], value, atol=1e-4, rtol=1e-3)
    for name, value in gradients.items():
        assert (own_gradients[name] - value).norm() <= 1e-4 + 0.03 * value.norm(), name
