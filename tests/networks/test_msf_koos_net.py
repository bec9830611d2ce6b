"""MSF-Koos-Net: sizes, what its parts see, and that frozen parts stay as they are."""

import pytest
import torch
from torch.nn import functional as F

from crossmoda.networks import KoosHead, MSFKoosNet, Projector

SMALL = {"features": 4, "n_blocks": 1, "hidden": 8, "projection": 6}


def crop(batch=2, size=(16, 20, 10)):
    image = torch.rand(batch, 1, *size)
    return torch.cat([image, (image > 0.7).float()], dim=1)


@pytest.mark.parametrize("mask_join", ["concatenate", "gate"])
def test_parameters_of_the_paper(mask_join):
    head = KoosHead(mask_join=mask_join)
    assert sum(parameter.numel() for parameter in head.parameters()) == pytest.approx(39.3e6, rel=0.01)
    whole = sum(parameter.numel() for parameter in MSFKoosNet(mask_join=mask_join).parameters())
    assert whole == pytest.approx(39.3e6 + 7.46e6, rel=0.01)


def test_encodes_every_three_slices_and_the_middle_one_s_mask():
    net, x = MSFKoosNet(**SMALL).eval(), crop()
    encoded = net.encode(x)
    assert encoded.shape == (2, 17, 4, 5, 8)  # 10 slices are 8 inputs of three
    for z in range(8):
        expected = net.encoder(x[:, 0, :, :, z : z + 3].permute(0, 3, 1, 2))
        torch.testing.assert_close(encoded[:, :-1, :, :, z], expected)
        mask = F.interpolate(x[:, 1:, :, :, z + 1], size=(4, 5), mode="bilinear", align_corners=False)
        torch.testing.assert_close(encoded[:, -1:, :, :, z], mask)


def test_gain_and_offset_do_not_matter():
    net, x = MSFKoosNet(**SMALL).eval(), crop()
    changed = torch.cat([2 * x[:, :1] - 1, x[:, 1:]], dim=1)
    torch.testing.assert_close(net(changed), net(x), rtol=1e-3, atol=1e-3)


def test_projections_are_unit_vectors_of_two_heads():
    projections = MSFKoosNet(**SMALL).eval().project(crop())
    assert projections.shape == (2, 2, 6)
    torch.testing.assert_close(projections.norm(dim=-1), torch.ones(2, 2))
    assert not torch.allclose(projections[:, 0], projections[:, 1])


def test_a_closed_gate_hides_the_image():
    net = MSFKoosNet(**SMALL, mask_join="gate").eval()
    with torch.no_grad():
        net.head.high_encoder.gate.weight.zero_()
        net.head.high_encoder.gate.bias.fill_(-100.0)
    torch.testing.assert_close(net(crop()), net(crop()))


def test_dropout_takes_whole_channels_of_the_features_but_not_the_mask():
    head = KoosHead(4, hidden=8, projection=4, feature_dropout=0.5)
    seen = []
    head.high_encoder.layers = torch.nn.Identity()
    x = torch.rand(3, 5, 4, 4, 2) + 1
    for _ in range(20):
        out = head.high_encoder(x)
        assert torch.equal(out[:, -1], x[:, -1])
        ratio = out[:, :-1] / x[:, :-1]
        assert torch.equal(ratio, ratio.mean(dim=(2, 3, 4), keepdim=True).round().expand_as(ratio))
        seen += ratio.flatten().tolist()
    assert set(seen) == {0.0, 2.0}
    assert torch.equal(head.eval().high_encoder(x), x)


FINETUNING = ("encoder", "high_encoder", "self_projection", "supervised_projection")


@pytest.mark.parametrize(
    ("frozen", "forward", "learns"),
    [
        (("encoder",), lambda net, x: Projector(net)(x).sum(), ("high_encoder", "self_", "supervised_")),
        (FINETUNING, lambda net, x: net(x).sum(), ("classifier",)),
        (("encoder",), lambda net, x: net(x).sum(), ("high_encoder", "classifier")),
        ((), lambda net, x: net(x).sum(), ("encoder", "high_encoder", "classifier")),
    ],
    ids=["pre-training", "fine-tuning", "no pre-training", "not frozen"],
)
def test_frozen_parts_are_bit_identical_after_training(frozen, forward, learns):
    torch.manual_seed(0)
    net = MSFKoosNet(**SMALL, frozen=frozen)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    for _ in range(3):
        net.train()
        optimizer.zero_grad()
        forward(net, crop()).backward()
        optimizer.step()
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    parts = {name.removeprefix("head.").split(".")[0] for name in changed}
    assert all(any(part.startswith(start) for part in parts) for start in learns), parts
    assert all(any(part.startswith(start) for start in learns) for part in parts), parts


def test_frozen_parts_stay_in_eval_mode():
    net = MSFKoosNet(**SMALL, frozen=FINETUNING).train()
    assert not any(module.training for part in (net.encoder, net.head.high_encoder) for module in part.modules())
    assert net.head.classifier.training
    assert net.training


def test_scripts():
    net, x = MSFKoosNet(**SMALL).eval(), crop()
    torch.testing.assert_close(torch.jit.script(net)(x), net(x))


def test_refuses_unknown_words():
    with pytest.raises(ValueError, match="mask_join"):
        MSFKoosNet(**SMALL, mask_join="add")
    with pytest.raises(ValueError, match="unknown part to freeze: head"):
        MSFKoosNet(**SMALL, frozen=("head",))
