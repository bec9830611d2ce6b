"""A training that is killed and continued must end as one that was not."""

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import CacheDataset, DataLoader
from monai.transforms import Compose, RandGaussianNoised

from crossmoda.engines import ResumableRun, SaveBest
from crossmoda.errors import InputError


def run(path, epochs, kill_in_epoch=None):
    torch.manual_seed(0)
    network = torch.nn.Linear(4, 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    items = [{"x": torch.full((1, 4), float(i))} for i in range(6)]
    dataset = CacheDataset(items, Compose([RandGaussianNoised("x", prob=0.5, std=1.0)]), progress=False)
    loader = DataLoader(dataset, batch_size=2, shuffle=True)

    def step(engine, batch):
        if engine.state.epoch == kill_in_epoch and engine.state.iteration % 3 == 2:
            raise KeyboardInterrupt
        optimizer.zero_grad()
        loss = (network(batch["x"].as_tensor()) + torch.rand(1)).square().mean()
        loss.backward()
        optimizer.step()

    engine = Engine(step)
    engine.add_event_handler(Events.EXCEPTION_RAISED, lambda _, error: (_ for _ in ()).throw(error))
    ResumableRun(path, {"network": network, "optimizer": optimizer}, dataset, seed=3).attach(engine)
    engine.run(loader, max_epochs=epochs)
    return network.state_dict()


def test_killed_and_continued_run_ends_bitwise_the_same(tmp_path):
    whole = run(tmp_path / "whole.pt", 4)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed.pt", 4, kill_in_epoch=3)
    continued = run(tmp_path / "killed.pt", 4)
    assert all(torch.equal(whole[key], continued[key]) for key in whole)


def test_state_is_weights_only_and_no_temporary_file_remains(tmp_path):
    run(tmp_path / "last.pt", 1)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["epoch"] == 1
    assert [f.name for f in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("fault", ["another network", "torn file", "no optimizer"])
def test_a_state_that_does_not_fit_is_named(fault, tmp_path):
    path = tmp_path / "last.pt"
    run(path, 1)
    state = torch.load(path, weights_only=True)
    if fault == "another network":
        torch.save(state | {"network": torch.nn.Linear(5, 1).state_dict()}, path)
    elif fault == "torn file":
        path.write_bytes(path.read_bytes()[:500])
    else:
        torch.save({key: value for key, value in state.items() if key != "optimizer"}, path)
    with pytest.raises(InputError, match=r"last\.pt is damaged or of another training"):
        run(path, 2)


def test_save_best_keeps_the_best_across_a_resume(tmp_path):
    network = torch.nn.Linear(1, 1)

    def validate(handler, value):
        engine = Engine(lambda *_: None)
        handler.attach(engine)

        engine.state.metrics = {"dice": value}
        engine.state.key_metric_name = "dice"
        handler._save_if_better(engine)

    first = SaveBest(network, tmp_path / "model.pt")
    with torch.no_grad():
        network.weight.fill_(1.0)
    validate(first, 0.8)
    second = SaveBest(network, tmp_path / "model.pt")
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        network.weight.fill_(2.0)
    validate(second, 0.7)
    assert torch.load(tmp_path / "model.pt", weights_only=True)["weight"].item() == 1.0
    validate(second, 0.9)
    assert torch.load(tmp_path / "model.pt", weights_only=True)["weight"].item() == 2.0
