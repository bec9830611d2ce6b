import pytest
import torch
from monai.engines import SupervisedTrainer

from crossmoda.engines import GradientClipping


@pytest.mark.parametrize(("max_norm", "expected"), [(0.1, 0.1), (100.0, None)], ids=str)
def test_a_step_is_no_longer_than_the_norm(max_norm, expected):
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 2)
    before = [p.detach().clone() for p in network.parameters()]
    data = [{"image": 10 * torch.ones(4, 3), "label": torch.zeros(4, 2)}]
    torch.nn.functional.mse_loss(network(data[0]["image"]), data[0]["label"]).backward()
    raw = torch.cat([p.grad.flatten() for p in network.parameters()])
    SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=data,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
        loss_function=torch.nn.MSELoss(),
        train_handlers=[GradientClipping(network, max_norm)],
    ).run()
    step = torch.cat([(old - new.detach()).flatten() for old, new in zip(before, network.parameters(), strict=True)])
    assert raw.norm() > 1
    assert float(step.norm()) == pytest.approx(expected or float(raw.norm()), rel=1e-4)
    assert torch.allclose(step / step.norm(), raw / raw.norm(), atol=1e-5)
