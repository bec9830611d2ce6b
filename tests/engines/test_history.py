import pytest
import torch
from ignite.engine import Engine, Events

from crossmoda.engines import HistoryCsv, ResumableRun, read_history


def trainer_with(outputs):
    """An engine whose iterations give the outputs in turn."""
    return Engine(lambda engine, batch: outputs[batch])


def test_losses_are_averaged_over_the_epoch_and_metrics_added(tmp_path):
    trainer = trainer_with([{"loss": torch.tensor(1.0), "pred": torch.zeros(2, 2)}, {"loss": torch.tensor(2.0)}])
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: engine.state.metrics.update(dice=0.5))
    HistoryCsv(tmp_path / "run" / "history.csv").attach(trainer)
    trainer.run([0, 1], max_epochs=2)
    assert (tmp_path / "run" / "history.csv").read_text() == "epoch,loss,dice\n1,1.5,0.5\n2,1.5,0.5\n"


def test_decollated_lists_and_nested_losses(tmp_path):
    item = {"loss": torch.tensor([3.0]), "losses": {"cycle": 2.0, "adversarial": 1}, "image": torch.zeros(1, 4)}
    trainer = trainer_with([[item, item]])
    HistoryCsv(tmp_path / "history.csv").attach(trainer)
    trainer.run([0], max_epochs=1)
    assert read_history(tmp_path / "history.csv") == [{"epoch": 1, "loss": 3, "cycle": 2, "adversarial": 1}]


@pytest.mark.parametrize("history_first", [True, False])
def test_validation_goes_into_the_trainers_epoch(tmp_path, history_first):
    trainer, validator = trainer_with([{"loss": 1.0}]), Engine(lambda engine, batch: None)

    @validator.on(Events.EPOCH_COMPLETED)
    def _measure(engine):
        engine.state.metrics["mean_dice"] = trainer.state.epoch / 10

    validator.run = lambda *_, **__: Engine.run(validator, [0], max_epochs=1)
    history = HistoryCsv(tmp_path / "history.csv", validator)
    if history_first:
        history.attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED(every=2), lambda engine: validator.run())
    if not history_first:
        history.attach(trainer)
    trainer.run([0], max_epochs=4)
    rows = read_history(tmp_path / "history.csv")
    assert [row.get("val_mean_dice") for row in rows] == [None, 0.2, None, 0.4]
    assert [row["loss"] for row in rows] == [1.0] * 4


def test_continued_run_drops_the_rows_after_its_epoch(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("epoch,loss\n1,10\n2,20\n3,30\n")
    weights = torch.nn.Linear(1, 1)
    torch.save({"network": weights.state_dict(), "epoch": 2, "iteration": 2}, tmp_path / "last.pt")
    trainer = trainer_with([{"loss": 1.0}])
    HistoryCsv(path).attach(trainer)
    ResumableRun(tmp_path / "last.pt", {"network": weights}).attach(trainer)
    trainer.run([0], max_epochs=4)
    assert [(row["epoch"], row["loss"]) for row in read_history(path)] == [(1, 10), (2, 20), (3, 1), (4, 1)]


def test_fresh_run_replaces_an_old_history(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("epoch,old\n1,10\n2,20\n")
    trainer = trainer_with([{"loss": 1.0}])
    HistoryCsv(path).attach(trainer)
    trainer.run([0], max_epochs=1)
    assert read_history(path) == [{"epoch": 1, "loss": 1}]


def test_finished_run_leaves_the_history_alone(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("epoch,loss\n1,10\n2,20\n")
    torch.save({"epoch": 2, "iteration": 2}, tmp_path / "last.pt")
    trainer = trainer_with([{"loss": 1.0}])
    HistoryCsv(path).attach(trainer)
    ResumableRun(tmp_path / "last.pt", {}).attach(trainer)
    trainer.add_event_handler(Events.STARTED, lambda engine: engine.terminate())
    trainer.run([0], max_epochs=2)
    assert [row["loss"] for row in read_history(path)] == [10, 20]


def test_the_batch_s_own_label_is_no_loss(tmp_path):
    trainer = Engine(lambda engine, batch: [{"loss": torch.tensor(2.0), "label": 3, "pred": torch.zeros(4)}])
    HistoryCsv(tmp_path / "history.csv").attach(trainer)
    trainer.run([0], max_epochs=1)
    assert read_history(tmp_path / "history.csv") == [{"epoch": 1, "loss": 2.0}]
