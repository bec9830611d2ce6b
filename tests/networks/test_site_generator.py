import io

import pytest
import torch
from torch.nn import functional as F

from crossmoda.errors import InputError
from crossmoda.networks import ResnetGenerator, SiteGenerator, site_generator_or_exit
from crossmoda.networks.site_generator import SiteNorm

SITES = ["ldn", "etz", "ukm"]


def make(site="ldn", **options):
    torch.manual_seed(0)
    network = SiteGenerator(SITES, site, **{"features": 4, "n_blocks": 2, **options})
    for name, parameter in network.named_parameters():
        if ".norm." in name:
            torch.nn.init.normal_(parameter, 1.0, 0.5)
    return network.eval()


def test_norm_has_each_sites_scale_and_shift():
    norm = SiteNorm(2, 2)
    norm.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    norm.bias.data = torch.tensor([[0.0, 0.1], [0.2, 0.3]])
    x = torch.rand(3, 2, 8, 9)
    code = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    y = norm(x, code)
    for i, (weight, bias) in enumerate([([1.0, 2.0], [0.0, 0.1]), ([3.0, 4.0], [0.2, 0.3]), ([2.0, 3.0], [0.1, 0.2])]):
        expected = F.instance_norm(x[i : i + 1], weight=torch.tensor(weight), bias=torch.tensor(bias))
        assert torch.allclose(y[i], expected[0], atol=1e-5)


def test_without_scales_it_is_the_resnet_generator():
    site, plain = SiteGenerator(SITES, "etz", features=4, n_blocks=2), ResnetGenerator(features=4, n_blocks=2)
    convolutions = [p for name, p in site.named_parameters() if ".norm." not in name]
    for own, other in zip(convolutions, plain.parameters(), strict=True):
        own.data = other.data.clone()
    x = torch.rand(2, 1, 26, 31)
    assert torch.allclose(site(x), plain(x), atol=1e-6)


def test_parameters_at_the_papers_size():
    site, plain = SiteGenerator(["ldn", "etz"], "ldn"), ResnetGenerator()
    count = sum(p.numel() for p in site.parameters())
    # Two sites, a scale and a shift for each of 64 + 128 + 256 + 18 * 256 + 128 + 64 normalised channels.
    assert count - sum(p.numel() for p in plain.parameters()) == 2 * 2 * (64 + 128 + 256 + 18 * 256 + 128 + 64)
    assert count == pytest.approx(11.4e6, rel=0.01)


def test_default_is_the_chosen_site_and_sites_differ():
    x = torch.rand(2, 1, 24, 20)
    codes = torch.eye(3)
    outputs = []
    for i, site in enumerate(SITES):
        network = make(site)
        outputs.append(network(x))
        assert torch.allclose(network(x), network(x, codes[i : i + 1].expand(2, -1)))
    assert not torch.allclose(outputs[0], outputs[1])
    mixed = make()(x, codes[[0, 2]])
    assert torch.allclose(mixed[0], outputs[0][0], atol=1e-6)
    assert torch.allclose(mixed[1], outputs[2][1], atol=1e-6)


def test_one_checkpoint_serves_all_sites():
    first, second = make("ldn"), SiteGenerator(SITES, "etz", features=4, n_blocks=2).eval()
    assert not any(name.endswith("code") for name in first.state_dict())
    second.load_state_dict(first.state_dict())
    x = torch.rand(1, 1, 16, 16)
    assert torch.allclose(second(x), first(x, torch.tensor([[0.0, 1.0, 0.0]])))


def test_gradients_reach_only_the_sites_own_norms():
    network = make()
    network(torch.rand(2, 1, 16, 16), torch.tensor([[0.0, 1.0, 0.0]])).square().sum().backward()
    for name, parameter in network.named_parameters():
        if ".norm." in name:
            assert float(parameter.grad[[0, 2]].abs().sum()) == 0
            assert float(parameter.grad[1].abs().sum()) > 0


def test_script_keeps_the_chosen_site():
    network = make("etz")
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(network), buffer)
    buffer.seek(0)
    scripted, x = torch.jit.load(buffer), torch.rand(2, 1, 18, 21)
    assert torch.allclose(scripted(x), network(x), atol=1e-6)
    code = torch.tensor([[1.0, 0.0, 0.0]])
    assert torch.allclose(scripted(x, code), network(x, code), atol=1e-6)


def test_unknown_site_is_one_line(capsys):
    with pytest.raises(InputError, match="'tilburg' is none of those in sites"):
        SiteGenerator(SITES, "tilburg")
    with pytest.raises(SystemExit):
        site_generator_or_exit(sites=SITES, site="tilburg")
    assert capsys.readouterr().err.count("\n") == 1
