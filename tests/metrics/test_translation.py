"""Judging sets of translated volumes: distances between sets, measures of a case, and whole evaluations."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, LoadImaged, MapLabelValued, ScaleIntensityRangePercentilesd

from crossmoda.data import write_datalist
from crossmoda.errors import InputError
from crossmoda.metrics import (
    compare_sets,
    evaluate_translations,
    evaluate_translations_or_exit,
    judge_case,
    read_metrics,
)
from crossmoda.metrics.translation import SliceSet, distance

SHAPE = (36, 32, 6)
TRANSFORM = Compose(
    [
        LoadImaged(["image", "label"], ensure_channel_first=True, image_only=True, allow_missing_keys=True),
        ScaleIntensityRangePercentilesd("image", 0, 100, -1, 1),
        MapLabelValued("label", [0, 1, 2], [0, 1, 2], allow_missing_keys=True),
    ]
)


def anatomy(seed):
    """A head with its label: tissue, a tumour (1) and a cochlea (2) whose places vary."""
    random = np.random.RandomState(seed)
    x, y, _ = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")
    head = (x - 18) ** 2 + (y - 16) ** 2 < 200
    label = np.zeros(SHAPE, np.uint8)
    dx, dy = random.randint(-2, 3, 2)
    label[10 + dx : 16 + dx, 12 + dy : 18 + dy, 1:5] = 1
    label[24 + dx : 27 + dx, 14 + dy : 17 + dy, 1:5] = 2
    return head, label, random


def ce_t1(seed):
    head, label, random = anatomy(seed)
    return head * 400 + (label == 1) * 500 - (label == 2) * 300 + random.rand(*SHAPE) * 20


def hr_t2(seed, noise=1):
    head, label, random = anatomy(seed)
    stripes = 100 * (np.arange(SHAPE[0]) % 4 < 2)[:, None, None]
    return head * (400 + stripes) - (label == 1) * 150 + (label == 2) * 600 + random.rand(*SHAPE) * 40 * noise


def scaled(volume):
    volume = torch.as_tensor(volume, dtype=torch.float32)[None]
    return (volume - volume.min()) / (volume.max() - volume.min()) * 2 - 1


def set_of(volumes, sites=("ldn", "etz")):
    found = SliceSet()
    for i, volume in enumerate(volumes):
        found.add(scaled(volume), sites[i % len(sites)])
    return found


def test_distances_lie_between_their_bounds():
    source, target = set_of(map(ce_t1, range(6))), set_of(map(hr_t2, range(10, 20)))
    good, half = set_of(map(hr_t2, range(30, 36))), set_of([(ce_t1, hr_t2)[n % 2](n) for n in range(6)])
    perfect, middle = (compare_sets(translated, source, target)["all"] for translated in (good, half))
    for name in ("fid", "spectrum_db"):
        assert perfect[name]["closed"] > 0.9
        assert perfect[name]["translated"] < middle[name]["translated"] < middle[name]["source"]
        assert middle[name]["target_halves"] < 0.15 * middle[name]["source"]
    nothing = compare_sets(source, source, target)["all"]
    assert nothing["fid"]["closed"] == nothing["spectrum_db"]["closed"] == 0


def test_distances_to_each_target_site():
    source = set_of(map(ce_t1, range(4)))
    bright = [hr_t2(n) + 300 * (np.arange(SHAPE[1]) % 6 < 3)[None, :, None] for n in (11, 13)]
    target = set_of([hr_t2(10), bright[0], hr_t2(12), bright[1]])
    translated = set_of(map(hr_t2, range(20, 24)))
    found = compare_sets(translated, source, target)
    assert list(found) == ["all", "etz", "ldn"]
    assert (found["all"]["targets"], found["etz"]["targets"]) == (4, 2)
    assert found["ldn"]["fid"]["translated"] < 0.2 * found["etz"]["fid"]["translated"]
    one = compare_sets(translated, source, set_of([hr_t2(10)]))["all"]["fid"]
    assert one["target_halves"] is None
    assert one["closed"] is None


def test_a_gain_in_power_is_its_decibels():
    generator = torch.Generator().manual_seed(0)
    weak, strong = SliceSet(), SliceSet()
    noise = 0.05 * torch.randn(1, 80, 80, 4, generator=generator)
    weak.add(noise, "")
    strong.add(noise * 10**0.5, "")
    assert distance(weak, [0], strong, [0])["spectrum_db"] == pytest.approx(10, abs=0.01)


def test_empty_slices_do_not_count():
    whole, padded = SliceSet(), SliceSet()
    volume = scaled(hr_t2(0))
    whole.add(volume, "")
    padded.add(torch.cat([volume, torch.full_like(volume, -1)], -1), "")
    assert torch.equal(whole.features[0], padded.features[0])
    assert torch.equal(whole.spectra[0], padded.spectra[0])


def test_judge_case_against_the_truth_by_hand():
    truth, source = scaled(hr_t2(0)), scaled(ce_t1(0))
    label = torch.as_tensor(anatomy(0)[1])[None]
    row = judge_case(truth, source, label, truth)
    assert row["mae_percent"] == row["mae_percent_VS"] == 0
    assert row["ssim_2d"] == pytest.approx(1)
    wrong = truth.clone()
    wrong[label == 2] -= 0.4  # of a range of 2
    row = judge_case(wrong, source, label, truth)
    assert row["mae_percent_cochlea"] == pytest.approx(20)
    assert row["mae_percent_VS"] == 0
    assert row["mae_percent"] == pytest.approx(20 * (label == 2).float().mean().item(), rel=1e-4)
    assert row["contrast_cochlea"] < judge_case(truth, source, label)["contrast_cochlea"]
    assert "ssim_2d" not in judge_case(truth, source, label)


@pytest.fixture
def folders(tmp_path):
    """Four sources, four real targets, translations that are the truth plus noise, and the truth."""

    def save(array, name):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array.astype(np.float32), np.diag([0.8, 0.8, 1.5, 1])), path)
        return str(path)

    sections = {"source_training": [], "target_training": []}
    translated = []
    for n in range(4):
        names = {"case": f"s{n}", "site": ("ldn", "etz")[n % 2]}
        label = save(anatomy(n)[1], f"data/s{n}_Label.nii.gz")
        sections["source_training"].append(names | {"image": save(ce_t1(n), f"data/s{n}_ceT1.nii.gz"), "label": label})
        target = {"case": f"t{n}", "site": names["site"], "image": save(hr_t2(n + 10), f"data/t{n}_hrT2.nii.gz")}
        sections["target_training"].append(target)
        save(hr_t2(n), f"truth/s{n}_hrT2.nii.gz")
        translated.append(names | {"image": save(hr_t2(n, noise=1.5), f"out/s{n}_hrT2.nii.gz")})
    write_datalist(sections, tmp_path / "datalist.json")
    write_datalist({"source_training": translated}, tmp_path / "out" / "datalist.json")
    return tmp_path


def judge(folder, **options):
    return evaluate_translations(
        folder / "out", folder / "datalist.json", TRANSFORM, folder / "judged", progress=False, **options
    )


def test_evaluation_writes_rows_and_a_summary(folders):
    summary = judge(folders, paired_dir=folders / "truth")
    assert json.loads((folders / "judged" / "summary.json").read_text()) == summary
    rows = read_metrics(folders / "judged" / "metrics.csv")
    assert [row["case"] for row in rows] == ["s0", "s1", "s2", "s3"]
    assert summary["cases"]["ssim_2d"]["mean"] == pytest.approx(np.mean([row["ssim_2d"] for row in rows]), rel=1e-4)
    assert summary["n"] == 4
    assert summary["paired"]
    assert sorted(summary["sites"]) == ["etz", "ldn"]
    assert summary["distances"]["all"]["fid"]["closed"] > 0.7
    # the yardstick is measured on the truth
    assert summary["truth"]["contrast_cochlea"]["mean"] > 20
    assert summary["truth"]["contrast_VS"]["mean"] < 0


def test_without_the_truth_the_rest_is_measured_beside_the_translations(folders):
    summary = evaluate_translations(folders / "out" / "datalist.json", folders / "datalist.json", TRANSFORM)
    assert (folders / "out" / "metrics.csv").is_file()
    assert not summary["paired"]
    assert summary["truth"] == {}
    assert "mae_percent" not in summary["cases"]


def test_faults_are_one_line(folders, capsys):
    with pytest.raises(SystemExit) as caught:
        evaluate_translations_or_exit(folders / "out", folders / "datalist.json", TRANSFORM, paired_dir=folders)
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "s0_hrT2.nii.gz is missing: make it with make_phantom.py --paired" in message


def test_translations_of_other_scans_or_grids_are_refused(folders):
    path = folders / "out" / "s1_hrT2.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.float32), np.eye(4)), path)
    with pytest.raises(InputError, match=r"s1_hrT2\.nii\.gz lies on another grid"):
        judge(folders)
    write_datalist({"source_training": [{"case": "x", "site": "", "image": str(path)}]}, folders / "out/datalist.json")
    with pytest.raises(InputError, match=r"x of .* is not in section source_training"):
        judge(folders)


def test_a_translation_without_contrast_is_named(folders):
    path = folders / "out" / "s1_hrT2.nii.gz"
    nib.save(nib.Nifti1Image(np.full(SHAPE, 7, np.float32), np.diag([0.8, 0.8, 1.5, 1])), path)
    with pytest.raises(InputError, match=r"s1_hrT2\.nii\.gz has no slice with any contrast"):
        judge(folders)


def test_what_no_volume_can_tell_is_left_open(folders):
    """Two slices are too few for flicker."""

    def two_slices(item):
        return {key: value[..., 2:4] for key, value in TRANSFORM(item).items()}

    summary = evaluate_translations(folders / "out", folders / "datalist.json", two_slices, progress=False)
    assert summary["cases"]["flicker_percent"] == {"mean": None, "sd": None, "median": None}


def test_no_target_label_is_read(folders):
    without = judge(folders)
    content = json.loads((folders / "datalist.json").read_text())
    for item in content["target_training"]:
        item["label"] = item["image"]  # would be refused as a label if it were read
    (folders / "datalist.json").write_text(json.dumps(content))
    assert judge(folders) == without
