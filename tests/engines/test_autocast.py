import torch
from monai.inferers import SimpleInferer

from crossmoda.engines import AutocastInferer


class Spy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv3d(1, 1, 1)
        self.seen = None

    def forward(self, x):
        y = self.layer(x)
        self.seen = y.dtype
        return y


def test_network_runs_in_bfloat16_and_returns_float32():
    net = Spy()
    out = AutocastInferer(SimpleInferer())(torch.rand(1, 1, 2, 2, 2), net)
    assert net.seen == torch.bfloat16
    assert out.dtype == torch.float32
    out.sum().backward()
    assert net.layer.weight.grad.dtype == torch.float32


def test_disabled_changes_nothing():
    net, x = Spy(), torch.rand(1, 1, 2, 2, 2)
    out = AutocastInferer(SimpleInferer(), enabled=False)(x, net)
    assert net.seen == torch.float32
    assert torch.equal(out, net(x))


def test_several_outputs_come_as_float32_each():
    class Pair(Spy):
        def forward(self, x):
            y = super().forward(x)
            return [y, y[..., ::2]]

    outputs = AutocastInferer(SimpleInferer())(torch.rand(1, 1, 2, 2, 2), Pair())
    assert [output.dtype for output in outputs] == [torch.float32, torch.float32]
    assert [output.shape[-1] for output in outputs] == [2, 1]
