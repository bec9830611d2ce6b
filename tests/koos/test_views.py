"""Views of the cases, balanced batches, and what stands between engines and answers."""

from __future__ import annotations

import csv

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Engine, Events
from koos_bundle import TRANSLATOR
from monai.transforms import Compose, Lambdad, RandFlipd, RandShiftIntensityd

from crossmoda.errors import InputError
from crossmoda.koos import (
    FixedViews,
    GradeSampler,
    KoosAnswers,
    ModalityMeanInferer,
    StackModalitiesd,
    koos_dataset,
    load_initial,
    logits_and_labels,
    prepare_modalities,
)
from crossmoda.networks import MSFGenerator, MSFKoosNet

SIZE = (8, 8, 6)


@pytest.fixture
def items(tmp_path):
    """Items whose images are files of torch, so that no scan is needed."""
    made = []
    for n in range(3):
        paths = {}
        for key in ("ceT1", "hrT2", "mask"):
            torch.manual_seed(10 * n + len(key))
            paths[key] = str(tmp_path / f"{n}_{key}.pt")
            torch.save(torch.rand(1, *SIZE), paths[key])
        made.append({"case": f"case_{n}", "koos": 1 + n, **paths})
    return made


def transform(*random):
    reads = Lambdad(["ceT1", "hrT2", "mask"], lambda path: torch.load(path, weights_only=True))
    return Compose([reads, *random, StackModalitiesd()])


def flip_and_shift():
    return RandFlipd(["ceT1", "hrT2", "mask"], prob=0.5, spatial_axis=0), RandShiftIntensityd("hrT2", 0.5, prob=1.0)


def network():
    torch.manual_seed(0)
    return MSFKoosNet(**TRANSLATOR, hidden=8, projection=4)


def test_modalities_are_stacked_with_the_mask(items):
    out = transform()(items[2])
    assert (out["case"], out["label"], tuple(out["image"].shape)) == ("case_2", 2, (2, 2, *SIZE))
    mask = torch.load(items[2]["mask"], weights_only=True)
    assert torch.equal(out["image"][0, 1:], mask)
    assert torch.equal(out["image"][1, 1:], mask)
    assert torch.equal(out["image"][1, :1], torch.load(items[2]["hrT2"], weights_only=True))
    alone = {key: value for key, value in items[0].items() if key not in ("ceT1", "koos")}
    reads = Lambdad(["hrT2", "mask"], lambda path: torch.load(path, weights_only=True))
    out = StackModalitiesd()(reads(alone))
    assert (out["label"], out["image"].shape[0]) == (-1, 1)


def test_batches_put_one_modality_after_the_other():
    image = torch.arange(2 * 2 * 3).reshape(2, 2, 3, 1, 1, 1).float()
    inputs, labels = prepare_modalities({"image": image, "label": torch.tensor([3, 1])}, "cpu")
    assert torch.equal(inputs[:2], image[:, 0])
    assert torch.equal(inputs[2:], image[:, 1])
    assert labels.tolist() == [3, 1, 3, 1]


def test_views_are_made_once_and_drawn(items):
    data = FixedViews(items, transform(*flip_and_shift()), views=4, seed=1)
    torch.manual_seed(0)
    seen = [data[0]["image"] for _ in range(60)]
    distinct = {image.sum().item() for image in seen}
    assert len(distinct) == 4
    again = FixedViews(items[:1], transform(*flip_and_shift()), views=4, seed=1)
    torch.manual_seed(0)
    assert torch.equal(again[0]["image"], seen[0])  # whatever the other cases
    other = FixedViews(items, transform(*flip_and_shift()), views=4, seed=2)
    assert {other[0]["image"].sum().item() for _ in range(60)}.isdisjoint(distinct)


def test_views_are_encoded(items):
    net = network()
    data = FixedViews(items, transform(), views=1, network=net)
    expected = net.encode(transform()(items[1])["image"])
    assert data[1]["image"].dtype == torch.float32
    torch.testing.assert_close(data[1]["image"], expected, rtol=1e-2, atol=1e-3)  # kept as float16
    assert data[1]["label"] == 1


def test_folder_keeps_views_until_something_changes(items, tmp_path):
    def files(**values):
        settings = {"views": 2, "network": network(), "folder": tmp_path / "views", "settings": [1], **values}
        data = FixedViews(items, transform(*flip_and_shift()), **settings)
        first = data[0]["image"]
        return len(list((tmp_path / "views").iterdir())), first

    torch.manual_seed(0)
    count, first = files()
    assert count == 1
    torch.manual_seed(0)
    count, again = files()
    assert count == 1
    assert torch.equal(first, again)
    assert files(settings=[2])[0] == 2
    assert files(seed=5)[0] == 3
    changed = network()
    with torch.no_grad():
        changed.encoder.layers[0].bias.add_(1)
    assert files(network=changed)[0] == 4
    torch.save(torch.rand(1, 8, 8, 7)[..., :6].clone() * 2, items[0]["hrT2"])
    assert files()[0] == 5


def test_dataset_without_fixed_views_is_monai_s(items):
    data = koos_dataset(items, transform(*flip_and_shift()), progress=False, seed=0, network=None)
    assert len({data[0]["image"].sum().item() for _ in range(20)}) > 10
    assert isinstance(koos_dataset(items, transform(), views=2), FixedViews)


def test_batches_are_balanced():
    items = [{"koos": grade} for grade in (1, 1, 1, 2, 2, 3, 4, 4, 4, 4)]
    torch.manual_seed(0)
    sampler = GradeSampler(items, per_grade=2, batches=6)
    indices = list(sampler)
    assert (sampler.batch_size, len(sampler), len(indices)) == (8, 48, 48)
    for batch in range(6):
        grades = [items[index]["koos"] for index in indices[8 * batch : 8 * batch + 8]]
        assert sorted(grades) == [1, 1, 2, 2, 3, 3, 4, 4]
    counts = [indices.count(index) for index in range(10)]
    assert counts == [4, 4, 4, 6, 6, 12, 3, 3, 3, 3]


def test_processes_share_one_draw(monkeypatch):
    items = [{"koos": grade} for grade in (1, 1, 1, 2, 2, 3)]

    def batches(count):
        torch.manual_seed(0)
        return torch.tensor(list(GradeSampler(items, per_grade=1, batches=count))).reshape(count, 3)

    whole = batches(6)
    monkeypatch.setattr(idist, "get_world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(idist, "get_rank", lambda rank=rank: rank)
        assert torch.equal(batches(3), whole[rank::2])


def test_mean_over_modalities_is_of_probabilities():
    logits = torch.randn(4, 4)
    inferer = ModalityMeanInferer(lambda inputs, network: logits)
    out = inferer(torch.zeros(2, 2, 1, 2, 2, 2), None).softmax(1)
    probabilities = logits.softmax(1)
    torch.testing.assert_close(out[0], (probabilities[0] + probabilities[1]) / 2)
    torch.testing.assert_close(out[1], (probabilities[2] + probabilities[3]) / 2)
    second = ModalityMeanInferer(lambda inputs, network: inputs.flatten(1)[:, :4], modalities=[1])
    inputs = torch.randn(3, 2, 4, 1, 1, 1)
    torch.testing.assert_close(second(inputs, None).softmax(1), inputs[:, 1].flatten(1).softmax(1))


def test_answers_of_an_evaluator(tmp_path, capsys):
    answers = KoosAnswers(unsure_below=0.4)
    engine = Engine(lambda engine, batch: [{"pred": batch[0]["logits"]}])
    answers.attach(engine)
    engine.add_event_handler(Events.ITERATION_STARTED, lambda: None)
    sure, flat = torch.tensor([0.0, 5.0, 0.0, 0.0]), torch.zeros(4)
    engine.run([[{"case": "sure", "logits": sure}], [{"case": "flat", "logits": flat}]])
    answers.write([{"case": "flat"}, {"case": "empty"}, {"case": "sure"}], tmp_path)
    with (tmp_path / "grades.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["class"], row["flags"]) for row in rows] == [
        ("flat", "1", "unsure"),
        ("empty", "", "empty mask"),
        ("sure", "2", ""),
    ]
    assert float(rows[2]["p2"]) == pytest.approx(sure.softmax(0)[1].item(), rel=1e-5)
    assert "3 case(s), 2 with a flag" in capsys.readouterr().out


def test_logits_and_labels_for_ignite():
    logits, labels = logits_and_labels(
        [{"pred": torch.ones(4), "label": torch.tensor(2)}, {"pred": torch.zeros(4), "label": 0}]
    )
    assert logits.shape == (2, 4)
    assert labels.tolist() == [2, 0]


def test_encoder_of_a_translator(tmp_path):
    torch.manual_seed(1)
    generator = MSFGenerator(3, **TRANSLATOR)
    torch.save(generator.state_dict(), tmp_path / "model.pt")
    net = network()
    load_initial(net, tmp_path / "model.pt")
    for name, value in generator.encoder.state_dict().items():
        assert torch.equal(net.encoder.state_dict()[name], value), name
    torch.save(net.state_dict(), tmp_path / "stage.pt")
    other = network()
    load_initial(other, None, tmp_path / "stage.pt")
    assert torch.equal(other.head.classifier.weight, net.head.classifier.weight)


def test_faults_of_first_weights(tmp_path):
    with pytest.raises(InputError, match="give --translator"):
        load_initial(network(), None)
    with pytest.raises(InputError, match="train MSF-Net first"):
        load_initial(network(), tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(InputError, match="is not a checkpoint"):
        load_initial(network(), tmp_path / "text.pt")
    torch.save(MSFGenerator(3, 8, 1).state_dict(), tmp_path / "wide.pt")
    with pytest.raises(InputError, match="is no MSF-Net with features=4"):
        load_initial(network(), tmp_path / "wide.pt")
