import logging

import pytest
from ignite.engine import Engine, Events

from crossmoda.engines.discriminator_watch import DiscriminatorWatch


def warnings(caplog, losses, **options):
    """What is said while the named losses take these values epoch by epoch."""
    trainer = Engine(lambda engine, batch: None)
    trainer.logger = logging.getLogger("trainer")

    def write(engine):
        engine.state.metrics.update({name: values[engine.state.epoch - 1] for name, values in losses.items()})

    trainer.add_event_handler(Events.EPOCH_COMPLETED, write)
    DiscriminatorWatch(**options).attach(trainer)
    with caplog.at_level(logging.WARNING, logger="trainer"):
        trainer.run([0], max_epochs=len(next(iter(losses.values()))))
    return [record.getMessage() for record in caplog.records if record.name == "trainer"]


def test_a_discriminator_that_always_wins_is_named_once(caplog):
    losses = {"loss_discriminator_target": [0.2] + [0.001] * 6, "loss_discriminator_source": [0.2] * 7}
    messages = warnings(caplog, losses, patience=3)
    assert len(messages) == 1
    assert "loss_discriminator_target has been below 0.02 for 3 epochs (now 0.001)" in messages[0]
    assert "always wins" in messages[0]


def test_a_discriminator_that_fails_is_named_once(caplog):
    messages = warnings(caplog, {"loss_discriminator_target": [0.25, 0.4, 0.5, 0.6, 0.7]}, patience=2)
    assert len(messages) == 1
    assert "above 0.35 for 2 epochs (now 0.5)" in messages[0]


@pytest.mark.parametrize(
    "values",
    [
        [0.25] * 8,  # undecided is also the goal
        [0.001, 0.001, 0.1] * 3,  # never long enough
        [0.001, 0.9] * 4,  # another side each time
        [float("nan")] * 8,
    ],
)
def test_a_healthy_game_is_left_alone(caplog, values):
    assert warnings(caplog, {"loss_discriminator_target": values, "loss_cycle": [0.0] * len(values)}, patience=3) == []


def test_senseless_thresholds_are_refused():
    with pytest.raises(ValueError, match="low < high"):
        DiscriminatorWatch(low=0.5, high=0.3)
