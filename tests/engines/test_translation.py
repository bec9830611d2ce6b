"""The trainer's step against one written out here, its processes, its guards, and the evaluator."""

import copy
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from ignite.engine import Events
from monai.data import DataLoader
from monai.utils import CommonKeys as Keys
from torch import nn

from crossmoda.engines import TranslationEvaluator, TranslationObjective, TranslationScore, TranslationTrainer
from crossmoda.engines.translation import SEGMENTATION, average_gradients


class ToyObjective(TranslationObjective):
    """One generator, one discriminator, least squares."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.generator = nn.Conv2d(1, 1, 3, padding=1)
        self.discriminator = nn.Conv2d(1, 1, 3)
        self.log = []

    def translate(self, source):
        return self.generator(source)

    def generator_parameters(self):
        return list(self.generator.parameters())

    def discriminator_parameters(self):
        return list(self.discriminator.parameters())

    def generator_loss(self, batch):
        self.log.append(("generator", self.epoch, self.discriminator.weight.requires_grad))
        fake = self.generator(batch["source"])
        return {
            "adversarial": (self.discriminator(fake) - 1).square().mean(),
            "l1": (fake - batch["source"]).abs().mean(),
        }

    def discriminator_loss(self, batch):
        self.log.append(("discriminator", self.epoch, self.discriminator.weight.requires_grad))
        fake = self.generator(batch["source"]).detach()
        real = (self.discriminator(batch["target"]) - 1).square().mean()
        return {"discriminator": 0.5 * (real + self.discriminator(fake).square().mean())}


def items(count=4):
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "source": torch.rand(1, 16, 16, generator=generator),
            "target": torch.rand(1, 16, 16, generator=generator),
            "source_label": torch.zeros(1, 16, 16, dtype=torch.uint8),
        }
        for _ in range(count)
    ]


def trainer(objective, data=None, **options):
    return TranslationTrainer(
        device="cpu",
        max_epochs=options.pop("max_epochs", 1),
        train_data_loader=DataLoader(data or items(), batch_size=2),
        objective=objective,
        generator_optimizer=torch.optim.SGD(objective.generator_parameters(), lr=0.1),
        discriminator_optimizer=torch.optim.SGD(objective.discriminator_parameters(), lr=0.2),
        **options,
    )


def test_steps_equal_alternating_gradient_descent():
    objective = ToyObjective()
    reference = copy.deepcopy(objective)
    trainer(objective).run()
    for batch in DataLoader(items(), batch_size=2):
        for loss, parameters, rate in (
            (reference.generator_loss, reference.generator_parameters(), 0.1),
            (reference.discriminator_loss, reference.discriminator_parameters(), 0.2),
        ):
            gradients = torch.autograd.grad(sum(loss(batch).values()), parameters)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter -= rate * gradient
    for a, b in zip(objective.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_discriminator_is_frozen_in_the_generator_step_and_epochs_are_told():
    objective = ToyObjective()
    trainer(objective, max_epochs=2).run()
    step = [("generator", 1, False), ("discriminator", 1, True)]
    assert objective.log[:4] == step * 2
    assert objective.log[4] == ("generator", 2, False)


def test_objective_may_ask_for_the_discriminator_first():
    objective = ToyObjective()
    objective.discriminator_first = True
    trainer(objective).run()
    assert [entry[0] for entry in objective.log[:2]] == ["discriminator", "generator"]


def test_output_suits_monai_handlers_and_metrics_are_means():
    objective = ToyObjective()
    engine, outputs = trainer(objective), []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: outputs.append(e.state.output[0]))
    engine.run()
    assert set(outputs[0]) == {Keys.LOSS, Keys.IMAGE, "loss_adversarial", "loss_l1", "loss_discriminator"}
    for name in ("loss", "loss_l1", "loss_discriminator"):
        mean = sum(float(output[name]) for output in outputs) / len(outputs)
        assert engine.state.metrics[name] == pytest.approx(mean, rel=1e-5)
    total = float(outputs[0]["loss_adversarial"] + outputs[0]["loss_l1"])
    assert float(outputs[0]["loss"]) == pytest.approx(total, rel=1e-6)


def test_bfloat16_autocast_runs_on_cpu():
    objective, kinds = ToyObjective(), []
    objective.generator.register_forward_hook(lambda module, args, output: kinds.append(output.dtype))
    trainer(objective, amp=True).run()
    assert set(kinds) == {torch.bfloat16}


def test_float16_on_cpu_is_refused():
    with pytest.raises(ValueError, match="needs a CUDA device"):
        trainer(ToyObjective(), amp=True, amp_dtype="float16")


def test_clipping_bounds_the_step():
    objective = ToyObjective()
    before = copy.deepcopy(list(objective.generator.parameters()))
    trainer(objective, items(2), clip_gradients=0.01).run()
    moved = torch.cat([(a - b).flatten() for a, b in zip(objective.generator.parameters(), before, strict=True)])
    assert moved.norm().item() == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_loss_that_is_not_finite_stops_with_its_name():
    data = items(2)
    data[0]["source"][0, 0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="adversarial nan"):
        trainer(ToyObjective(), data).run()


def test_evaluator_gives_what_the_score_takes():
    objective = ToyObjective()
    score = TranslationScore()
    evaluator = TranslationEvaluator(
        device="cpu",
        val_data_loader=DataLoader(items(), batch_size=3),
        objective=objective,
        key_val_metric={"s": score},
    )
    evaluator.run()
    assert evaluator.state.output[SEGMENTATION] is None
    torch.testing.assert_close(evaluator.state.output[Keys.PRED][0], objective.translate(items()[3]["source"]))
    assert evaluator.state.metrics["s"] == pytest.approx(sum(score.parts.values()) / len(score.parts))
    assert set(score.parts) == {"score_intensity", "score_spectrum"}  # these slices have no labels
    assert set(score.parts) < set(evaluator.state.metrics)


def run_rank(rank, world, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    objective = ToyObjective()
    if rank > 0:
        nn.init.zeros_(objective.generator.weight)  # the broadcast must mend that
    data = items(4)[2 * rank : 2 * rank + 2]
    trainer(objective, data).run()
    torch.save(objective.state_dict(), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one_with_the_joint_batch(tmp_path):
    mp.spawn(run_rank, (2, 29641 + os.getpid() % 1000, tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    objective = ToyObjective()
    engine = TranslationTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=DataLoader(items(4), batch_size=4),
        objective=objective,
        generator_optimizer=torch.optim.SGD(objective.generator_parameters(), lr=0.1),
        discriminator_optimizer=torch.optim.SGD(objective.discriminator_parameters(), lr=0.2),
    )
    engine.run()
    for name, value in objective.state_dict().items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value)


def test_average_gradients_is_nothing_in_one_process():
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, 2.0])
    average_gradients([parameter, nn.Parameter(torch.ones(1))])
    assert parameter.grad.tolist() == [1, 2]
