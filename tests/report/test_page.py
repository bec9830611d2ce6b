import importlib.util
import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from crossmoda.data import read_sections, save_nifti, write_datalist
from crossmoda.errors import InputError
from crossmoda.metrics import evaluate, read_metrics
from crossmoda.report import ReportInput, write_report
from crossmoda.report.page import merged_prediction
from crossmoda.report.pictures import Volume, Window, roi_window, show, window_on

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "report.py"
LPS = np.diag([-1.5, -1.5, 3.0, 1.0])


def scan_and_label(seed):
    """A dark head with a bright tumour on one side and a cochlea on either, shape (48, 40, 10), stored as LPS."""
    random = np.random.RandomState(seed)
    label = np.zeros((48, 40, 10), np.uint8)
    x, y, z = np.indices(label.shape)
    label[(x - 14) ** 2 + (y - 20) ** 2 + 4 * (z - 5) ** 2 < random.randint(9, 30)] = 1
    label[8:10, 14:17, 5:7] = label[38:40, 14:17, 5:7] = 2
    head = ((x - 24) / 22) ** 2 + ((y - 20) / 18) ** 2 < 1
    scan = 300 * head + 400 * (label == 1) + 500 * (label == 2) + random.normal(0, 20, label.shape)
    return scan.astype(np.float32), label


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What a pipeline run leaves: scans, truth, three systems, a translator."""
    root = tmp_path_factory.mktemp("run")
    sections = {"source_training": [], "target_training": [], "target_validation": []}
    for number, section in enumerate([*sections] * 3):
        case, (scan, label) = f"case{number}", scan_and_label(number)
        save_nifti(scan, LPS, root / "scans" / f"{case}.nii.gz")
        save_nifti(label, LPS, root / "scans" / f"{case}_Label.nii.gz")
        item = {"case": case, "site": "ldn" if number % 2 else "etz", "koos": 1 + number % 4}
        item |= {"image": root / "scans" / f"{case}.nii.gz", "label": root / "scans" / f"{case}_Label.nii.gz"}
        sections[section].append(
            {key: str(value) if key in ("image", "label") else value for key, value in item.items()}
        )
        if section == "source_training":
            save_nifti(1000 - scan, LPS, root / "translation" / "cyclegan" / "volumes" / f"{case}_hrT2.nii.gz")
    write_datalist(sections, root / "oracle.json")
    for name, shift in (("source-only", 3), ("adapted", 1), ("oracle", 0)):
        folder = root / "segmentation" / name
        for item in sections["target_validation"]:
            label = scan_and_label(int(item["case"][4:]))[1]
            save_nifti(np.roll(label, shift, axis=0), LPS, folder / "predictions" / f"{item['case']}_seg.nii.gz")
        evaluate(folder / "predictions", root / "oracle.json", "target_validation", progress=False)
        (folder / "history.csv").write_text("epoch,loss,val_mean_dice\n1,0.9,\n2,0.5,0.4\n3,0.2,0.6\n")
    (root / "translation" / "cyclegan" / "history.csv").write_text("epoch,cycle,adversarial\n1,1,0.5\n2,0.01,0.4\n")
    return root


def report_input(run, **changes):
    names = ("source-only", "adapted", "oracle")
    values = {
        "systems": {name: run / "segmentation" / name for name in names},
        "source_only": "source-only",
        "oracle": "oracle",
        "translations": {"cyclegan": run / "translation" / "cyclegan"},
        "data_list": run / "oracle.json",
        "note": "Phantom <only>",
        "facts": {"seed": "7"},
    }
    return ReportInput(**values | changes)


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    """Folder of the whole report, and what was printed."""
    folder = tmp_path_factory.mktemp("report")
    return folder, write_report(report_input(run), folder)


class Page(HTMLParser):
    """Collects tags and image sources."""

    def __init__(self):
        super().__init__()
        self.images, self.links, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs)["src"])
        if tag in ("script", "link"):
            self.links.append(tag)
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_whole_report(written):
    folder, text = written
    assert "adapted" in text
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results["focus"] == "adapted"
    assert results["systems"]["oracle"]["all"]["dice"]["VS"]["mean"] == 1
    assert 0 < results["systems"]["adapted"]["gap_closed"]["dice"]["cochlea"] < 1
    assert results["facts"]["seed"] == "7"
    html = (folder / "index.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(html)
    assert page.open == []
    assert page.links == []
    assert len(page.images) == 5
    assert all(source.startswith("data:image/png;base64,") for source in page.images)
    assert "Phantom &lt;only&gt;" in html
    assert f"{results['systems']['adapted']['all']['dice']['VS']['mean']:.3f} ±" in html
    names = sorted(path.name for path in (folder / "pictures").iterdir())
    assert names == [
        "curves_segmenters.png",
        "curves_translators.png",
        "overlays_VS.png",
        "overlays_cochlea.png",
        "translations.png",
    ]
    markdown = (folder / "results.md").read_text(encoding="utf-8")
    assert markdown.startswith("Phantom <only>\n\n**Mean ± standard deviation over 3 cases")


def test_overlay_shows_both_outlines(written):
    pixels = (
        np.asarray(Image.open(written[0] / "pictures" / "overlays_VS.png").convert("RGB")).reshape(-1, 3).astype(int)
    )
    for colour in ((255, 212, 0), (255, 46, 136)):
        assert (np.abs(pixels - colour).max(axis=1) < 40).sum() > 50


def test_without_scans_and_bounds(run, tmp_path):
    write_report(ReportInput({"adapted": run / "segmentation" / "adapted"}), tmp_path)
    page = Page()
    page.feed((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert len(page.images) == 1  # the curves


def test_faults(run, tmp_path):
    with pytest.raises(InputError, match=r"has no metrics\.csv"):
        write_report(report_input(run, systems={"a": tmp_path}), tmp_path / "out")
    with pytest.raises(InputError, match="at least one system"):
        write_report(report_input(run, systems={}), tmp_path / "out")
    with pytest.raises(InputError, match="--focus"):
        write_report(report_input(run, focus="x"), tmp_path / "out")
    with pytest.raises(InputError, match="has no case0_hrT2"):
        write_report(report_input(run, translations={"cut": tmp_path}), tmp_path / "out")
    write_datalist({"target_validation": []}, tmp_path / "empty.json")
    with pytest.raises(InputError, match=r"empty\.json has no items in section 'target_validation'"):
        write_report(report_input(run, data_list=tmp_path / "empty.json"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command_line(run, tmp_path, capsys):
    specification = importlib.util.spec_from_file_location("report_script", SCRIPT)
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    systems = [word for name in ("source-only", "oracle") for word in ("--system", f"{name}={run}/segmentation/{name}")]
    assert script.main([*systems, "--source_only", "source-only", "--oracle", "oracle", "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "100%" in printed
    assert str(tmp_path / "index.html") in printed
    for words in (["--system", "nothing"], ["--system", "a=x", "--system", "a=y"]):
        with pytest.raises(SystemExit) as caught:
            script.main([*words, "--output", str(tmp_path)])
        assert caught.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_grades_rounds_and_links(run, tmp_path):
    """As a recipe's report has them."""
    found = {"n": 24, "ma_mae": 0.125, "ma_mse": 0.5, "balanced_accuracy": 0.75, "quadratic_kappa": None, "ece": 0.1}
    guess = {"2": {"ma_mae": 1.0, "ma_mse": 1.5}}
    judged, rounds = tmp_path / "judged", tmp_path / "rounds.json"
    judged.mkdir()
    (judged / "metrics.json").write_text(json.dumps({"all": {**found, "ungraded": 0}, "constant_guess": guess}))
    means = {"VS": 0.5, "cochlea": 0.75, "mean": 0.625}
    rounds.write_text(json.dumps({"rounds": [{"round": 0, "dice": means, "assd": {"VS": 1.25, "cochlea": 0.5}}]}))
    command = [sys.executable, str(SCRIPT), "--system", f"oracle={run}/segmentation/oracle", "--output", str(tmp_path)]
    options = ["--grades", f"geometry={judged}", "--rounds", f"ensemble={rounds}", "--link", "Sheets=../cases"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert '<a href="../cases">Sheets</a>' in text
    assert "Koos grades of 24 cases" in text
    assert "<td>geometry</td><td>1</td><td>0.125</td>" in text
    assert "ensemble: Rounds of self-training" in text
    assert "<td>0</td><td>0.500</td><td>0.750</td><td>0.625</td><td>1.25</td>" in text
    assert "| geometry | 1 | 0.125 |" in (tmp_path / "results.md").read_text(encoding="utf-8")
    done = subprocess.run(
        [*command, "--rounds", f"a={judged}/metrics.json"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no judgement of rounds" in done.stderr


def test_predictions_with_parts_of_the_tumour(run, tmp_path):
    """Beside one without; the truth has three classes, which the data list merges."""
    sections = read_sections(run / "oracle.json")
    for item in sections["target_validation"]:
        image = nib.load(item["label"])
        label = np.asarray(image.dataobj)
        parts = np.where(label == 2, 3, label)
        parts[:16][parts[:16] == 1] = 2
        item["label"] = str(tmp_path / "truth" / f"{item['case']}_Label.nii.gz")
        save_nifti(parts, image.affine, item["label"])
        for name, array in (("three", parts), ("two", label)):
            save_nifti(array, image.affine, tmp_path / name / f"{item['case']}_seg.nii.gz")
    path = tmp_path / "list.json"
    write_datalist(sections, path, {0: 0, 1: 1, 2: 1, 3: 2})
    identity = {label: label for label in range(4)}
    for name, part_map in (("three", identity), ("two", None)):
        evaluate(tmp_path / name, path, "target_validation", progress=False, part_map=part_map)
    changes = {"source_only": None, "oracle": None, "data_list": path, "translations": {}}
    write_report(report_input(run, systems={n: tmp_path / n for n in ("three", "two")}, **changes), tmp_path / "out")
    text = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert "boundary ASSD" in text
    assert "| two | - | - | - | - | - |" in text
    # The pictures show both alike: VS and cochlea.
    rows = {name: read_metrics(tmp_path / name / "metrics.csv")[0] for name in ("three", "two")}
    volumes = [
        merged_prediction(Volume.load(tmp_path / name / f"{row['case']}_seg.nii.gz"), row) for name, row in rows.items()
    ]
    assert np.array_equal(volumes[0].array, volumes[1].array)
    assert set(np.unique(volumes[0].array)) == {0, 1, 2}


def test_windows_follow_the_label(run):
    label = Volume.load(run / "scans" / "case2_Label.nii.gz")
    # x runs the other way in RAS: 47 - 14
    window = window_on(label, (1,), 20)
    assert window.slice == 5
    assert window.centre == pytest.approx((33, 19), abs=0.6)
    cochlea = window_on(label, (2,), 20)
    assert cochlea.size == (24 + 3, 24 + 3) or cochlea.size[0] >= 20
    assert abs(cochlea.centre[0] - 23.5) > 10
    empty = Volume(np.zeros((10, 12, 6)), (1, 1, 1))
    assert window_on(empty, (1,), 20) == Window(3, (5, 6), (20, 20))
    assert roi_window(empty).slice == 3


def test_patients_left_is_on_the_right():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    array = np.zeros((10, 10, 3))
    array[2, 8, 1] = 1
    show(axes, Volume(array, (1, 1, 1)), Window(1, (5, 5), (10, 10)))
    left, right = axes.get_xlim()
    low, high = axes.get_ylim()
    assert left > right  # RAS x grows to the patient's right, which is on the viewer's left
    assert high > low


def test_empty_data_list_as_a_user_meets_it(run, tmp_path):
    write_datalist({"target_validation": []}, tmp_path / "empty.json")
    words = ["--system", f"adapted={run}/segmentation/adapted", "--data_list", tmp_path / "empty.json"]
    command = [sys.executable, str(SCRIPT), *map(str, words), "--output", str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert f"{tmp_path / 'empty.json'} has no items in section 'target_validation'" in done.stderr
    assert "make it again with scripts/make_datalist.py" in done.stderr
    assert not (tmp_path / "out").exists()
