import logging

from ignite.engine import Engine, Events

from crossmoda.engines.epoch_line import EpochLine


def test_one_line_an_epoch_with_the_mean_loss_and_metrics(caplog):
    losses = iter([0.2, 0.4, 1.0, 2.0])
    validator = Engine(lambda engine, batch: None)
    validator.add_event_handler(Events.COMPLETED, lambda engine: engine.state.metrics.update(val_mean_dice=0.5))
    trainer = Engine(lambda engine, batch: [{"loss": next(losses)}])
    trainer.logger = logging.getLogger("trainer")
    trainer.add_event_handler(Events.EPOCH_COMPLETED(every=2), lambda: validator.run([0]))
    EpochLine(validator, interval=2).attach(trainer)
    with caplog.at_level(logging.INFO, logger="trainer"):
        trainer.run([0, 1], max_epochs=2)
    lines = [line for line in caplog.messages if line.startswith("Epoch ")]
    assert lines == ["Epoch 1/2: loss 0.3000", "Epoch 2/2: loss 1.5000, val_mean_dice 0.5000"]
