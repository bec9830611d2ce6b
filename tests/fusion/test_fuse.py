"""Fusion on disk, and the commands, on tiny volumes."""

import importlib.util
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.special import softmax
from segmentation_bundle import oblique_affine

from crossmoda.data import save_nifti, save_probabilities, write_datalist
from crossmoda.errors import InputError
from crossmoda.fusion import CaseFiles, as_members, choose_members, find_cases, fuse_members, read_choice

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SHAPE = (12, 10, 8)
AFFINE = oblique_affine(shape=SHAPE)


def truth_of(case):
    labels = np.zeros(SHAPE, np.uint8)
    labels[4:7, 3:6, 2 : 5 + case % 2] = 1
    labels[1:3, 3:5, 3:5] = labels[9:11, 3:5, 3:5] = 2
    return labels


def write_member(folder, cases, seed, noise=1.0, classes=3, suffixes=("prob", "seg"), affine=AFFINE):
    """Probabilities around the truth; returns them by case."""
    random = np.random.RandomState(seed)
    written = {}
    for case in cases:
        onehot = np.stack([truth_of(case) == label for label in range(classes)])
        probabilities = softmax(2 * onehot + noise * random.randn(classes, *SHAPE), axis=0).astype(np.float32)
        written[f"c{case}"] = probabilities
        if "prob" in suffixes:
            save_probabilities(probabilities, affine, folder / f"c{case}_prob.nii.gz")
        if "seg" in suffixes:
            save_nifti(probabilities.argmax(axis=0).astype(np.uint8), affine, folder / f"c{case}_seg.nii.gz")
    return written


@pytest.fixture
def members(tmp_path):
    written = {name: write_member(tmp_path / name, range(3), seed) for seed, name in enumerate("abc")}
    return tmp_path, written


@pytest.fixture
def data_list(tmp_path):
    items = []
    for case in range(3):
        for name, array in (("hrT2", truth_of(case).astype(np.int16) + 1), ("Label", truth_of(case))):
            save_nifti(array, AFFINE, tmp_path / "data" / f"c{case}_{name}.nii.gz")
        paths = {
            key: str(tmp_path / f"data/c{case}_{name}.nii.gz") for key, name in (("image", "hrT2"), ("label", "Label"))
        }
        items.append({"case": f"c{case}", "site": "ldn", **paths})
    write_datalist({"source_training": items}, tmp_path / "data" / "datalist.json")
    return tmp_path / "data" / "datalist.json"


def labels_in(path):
    return np.asarray(nib.load(path).dataobj)


def folders(tmp_path, names="abc"):
    return [str(tmp_path / name) for name in names]


def run_script(name, *words):
    """A command within this process: starting Python takes longer than all the rest."""
    specification = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.main([str(word) for word in words])


def test_mean_on_disk(members):
    tmp_path, written = members
    assert fuse_members(folders(tmp_path), "mean", tmp_path / "out", progress=False) == ["c0", "c1", "c2"]
    for case in ("c0", "c1", "c2"):
        average = np.mean([written[name][case] for name in "abc"], axis=0)
        top = np.sort(average, axis=0)
        sure = top[-1] - top[-2] > 0.02  # beyond what bytes round
        assert sure.mean() > 0.9
        image = nib.load(tmp_path / "out" / f"{case}_seg.nii.gz")
        assert image.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(np.asarray(image.dataobj)[sure], average.argmax(axis=0)[sure])
        source = nib.load(tmp_path / "a" / f"{case}_seg.nii.gz")
        for field in ("pixdim", "srow_x", "srow_y", "srow_z", "sform_code", "qform_code", "quatern_b"):
            np.testing.assert_array_equal(image.header[field], source.header[field])
    report = json.loads((tmp_path / "out" / "c0_seg.json").read_text())
    assert (report["fusion"], report["fused"], report["members"]) == ("mean", ["a", "b", "c"], 3)
    assert 0 < report["entropy"] < 1
    assert 0 < report["agreement"]["VS"] < 1
    voxel = abs(np.linalg.det(AFFINE[:3, :3])) / 1000
    count = (labels_in(tmp_path / "out" / "c0_seg.nii.gz") == 1).sum()
    assert report["volumes_ml"]["VS"] == pytest.approx(count * voxel, rel=1e-5)


@pytest.mark.parametrize("rule", ["majority", "union", "staple"])
def test_label_rules_need_no_probabilities(members, rule):
    tmp_path, written = members
    for name in "abc":
        for path in (tmp_path / name).glob("*_prob.nii.gz"):
            path.unlink()
    fuse_members(folders(tmp_path), rule, tmp_path / "out", progress=False)
    fused = labels_in(tmp_path / "out" / "c1_seg.nii.gz")
    hard = np.stack([written[name]["c1"].argmax(axis=0) for name in "abc"])
    if rule == "union":
        np.testing.assert_array_equal(fused > 0, (hard > 0).any(axis=0))
    else:
        agreed = (hard == hard[0]).all(axis=0)
        np.testing.assert_array_equal(fused[agreed], hard[0][agreed])
    assert json.loads((tmp_path / "out" / "c1_seg.json").read_text())["entropy"] is None


def test_postprocessing_and_evaluation(members, data_list):
    tmp_path, _ = members
    rules = ["largest_vs", "largest_cochlea_per_side"]
    fuse_members(folders(tmp_path), "union", tmp_path / "raw", progress=False)
    fuse_members(folders(tmp_path), "union", tmp_path / "out", rules, data_list, "source_training", progress=False)
    fused, raw = (labels_in(tmp_path / name / "c0_seg.nii.gz") for name in ("out", "raw"))
    assert (fused == 1).sum() < (raw == 1).sum()
    assert json.loads((tmp_path / "out" / "c0_seg.json").read_text())["postprocessing_rules"] == rules
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["all"]["n"] == 3
    assert not (tmp_path / "raw" / "summary.json").exists()


def test_three_classes(tmp_path):
    for seed, name in enumerate("ab"):
        write_member(tmp_path / name, [0], seed, noise=0.2, classes=4, suffixes=("prob",))
    fuse_members(folders(tmp_path, "ab"), "mean", tmp_path / "out", ["largest_vs"], progress=False)
    report = json.loads((tmp_path / "out" / "c0_seg.json").read_text())
    assert report["volumes_ml"].keys() == {"VS", "extra", "intra", "cochlea"}
    assert report["volumes_ml"]["VS"] == pytest.approx(report["volumes_ml"]["extra"] + report["volumes_ml"]["intra"])


def test_what_members_found_unlike_the_training_data_is_kept(members):
    tmp_path, _ = members
    for name, far in (("a", None), ("b", {"noise": 6.0}), ("c", {})):
        (tmp_path / name / "c0_seg.json").write_text(json.dumps({"unlike_training": far}))
    (tmp_path / "a" / "c1_seg.json").write_text("no JSON")
    fuse_members(folders(tmp_path), "mean", tmp_path / "out", progress=False)
    first, second = (json.loads((tmp_path / "out" / f"c{case}_seg.json").read_text()) for case in (0, 1))
    assert first["unlike_training"] == {"noise": 6.0}
    assert "unlike_training" in first["flags"]
    assert second["unlike_training"] is None
    assert "unlike_training" not in second["flags"]


def test_members_must_fit_together(members):
    tmp_path, _ = members

    def fuse(rule="mean", names="abc"):
        fuse_members(folders(tmp_path, names), rule, tmp_path / "out", progress=False)

    with pytest.raises(InputError, match=r"none is not a folder"):
        fuse_members([tmp_path / "none"], "mean", tmp_path / "out")
    with pytest.raises(InputError, match="no fusion rule 'best'"):
        fuse("best")
    with pytest.raises(InputError, match="two members are called 'a'"):
        fuse(names="aa")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no \*_prob\.nii\.gz: run the inference with --save_probabilities True"):
        fuse_members([tmp_path / "empty"], "mean", tmp_path / "out")
    (tmp_path / "b" / "c1_prob.nii.gz").unlink()
    with pytest.raises(InputError, match=r"b/c1_prob\.nii\.gz is missing: .*--save_probabilities True"):
        fuse()
    (tmp_path / "c" / "c2_seg.nii.gz").unlink()
    with pytest.raises(InputError, match=r"c/c2_seg\.nii\.gz is missing: run its inference on the same scans"):
        fuse("majority")
    assert not (tmp_path / "out").exists()

    write_member(tmp_path / "b", range(3), 1, affine=AFFINE @ np.diag([1, 1, 1.2, 1]))
    with pytest.raises(InputError, match=r"b/c0_.*\.nii\.gz lies on another grid than .*a/c0_seg"):
        fuse()
    write_member(tmp_path / "b", range(3), 1, classes=4)
    with pytest.raises(InputError, match=r"b/c0_prob\.nii\.gz has 4 classes, 3 are expected as in .*a/c0_prob"):
        fuse()


def test_further_structures_are_refused(tmp_path, data_list):
    """Their cochlea is not the last class."""
    write_member(tmp_path / "a", range(3), 0, classes=5)
    with pytest.raises(InputError, match="5 classes with background: take results of 3"):
        fuse_members([tmp_path / "a"], "mean", tmp_path / "out", progress=False)
    with pytest.raises(InputError, match="5 classes"):
        choose_members([tmp_path / "a"], data_list, "source_training", progress=False)


def test_choice_among_networks_of_three_classes(tmp_path, data_list):
    """The truth's cochlea is 2, theirs 3; truth_of has no intra-meatal part."""
    for case in range(3):
        parts = np.array([0, 1, 3])[truth_of(case)]
        onehot = np.stack([parts == label for label in range(4)]).astype(np.float32)
        save_probabilities(onehot, AFFINE, tmp_path / "a" / f"c{case}_prob.nii.gz")
    choice = choose_members([tmp_path / "a"], data_list, "source_training", progress=False)
    assert (choice["dice"], choice["candidates"][0]["dice_cochlea"]) == (1, 1)


def test_a_member_is_not_overwritten(members, monkeypatch):
    tmp_path, _ = members
    before = (tmp_path / "a" / "c0_seg.nii.gz").read_bytes()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="holds a member's results, which would be lost"):
        fuse_members(folders(tmp_path), "majority", "b/../a", progress=False)
    assert (tmp_path / "a" / "c0_seg.nii.gz").read_bytes() == before


def test_a_class_beyond_the_members_is_refused(tmp_path):
    save_nifti(np.full(SHAPE, 3, np.uint8), AFFINE, tmp_path / "a" / "c0_seg.nii.gz")
    with pytest.raises(InputError, match="has class 3, but members have 3 classes: give --num_classes"):
        fuse_members([tmp_path / "a"], "majority", tmp_path / "out", progress=False)
    fuse_members([tmp_path / "a"], "majority", tmp_path / "out", num_classes=4, progress=False)
    assert (labels_in(tmp_path / "out" / "c0_seg.nii.gz") == 3).all()


def test_labels_come_from_probabilities_where_there_are_no_label_maps(members):
    tmp_path, written = members
    (tmp_path / "a" / "c0_seg.nii.gz").unlink()
    found = as_members([f"first={tmp_path / 'a'}"])
    assert found[0].name == "first"
    labels = next(CaseFiles("c0", tuple(found), 3).labels())
    assert (labels == written["a"]["c0"].argmax(axis=0)).mean() > 0.98
    assert find_cases(found, "labels") == ["c1", "c2"]


def choice_members(tmp_path):
    """Two good members whose errors differ, and a bad one."""
    for seed, (name, noise) in enumerate({"a": 0.9, "b": 0.9, "bad": 4.0}.items()):
        write_member(tmp_path / name, range(3), seed, noise)
    return [str(tmp_path / name) for name in ("a", "b", "bad")]


def test_choice_of_the_best_single_or_pair(tmp_path, data_list):
    paths = choice_members(tmp_path)
    choice = choose_members(paths, data_list, "source_training", progress=False)
    assert choice["members"] == ["a", "b"]
    assert choice["cases"] == 3
    rows = {tuple(row["members"]): row["dice"] for row in choice["candidates"]}
    assert rows.keys() == {("a",), ("b",), ("bad",), ("a", "b"), ("a", "bad"), ("b", "bad")}
    assert list(rows.values()) == sorted(rows.values(), reverse=True)
    # one number anew: Dice of the mean of a and b
    scores = []
    for case in range(3):
        files = CaseFiles(f"c{case}", tuple(as_members(paths[:2])), 3)
        fused, truth = (sum(files.probabilities()) / 2).argmax(axis=0), truth_of(case)
        for label in (1, 2):
            p, t = fused == label, truth == label
            scores.append(2 * (p & t).sum() / (p.sum() + t.sum()))
    assert choice["dice"] == pytest.approx(np.mean(scores))


def test_a_pair_that_is_no_better_is_not_taken(tmp_path, data_list):
    for name in ("a", "b"):
        write_member(tmp_path / name, range(3), 0)
    choice = choose_members([tmp_path / "a", tmp_path / "b"], data_list, "source_training", progress=False)
    assert choice["members"] == ["a"]


def test_choice_files(tmp_path):
    path = tmp_path / "choice.json"
    with pytest.raises(InputError, match=r"choice\.json can't be read"):
        read_choice(path, ["a"])
    for text in ("{}", "[", '{"members": [], "rule": "mean"}', '{"members": ["a"], "rule": "x"}'):
        path.write_text(text)
        with pytest.raises(InputError, match="is not a choice of members"):
            read_choice(path, ["a"])
    path.write_text('{"members": ["b"], "rule": "mean"}')
    with pytest.raises(InputError, match="chose 'b', which is not among the members"):
        read_choice(path, ["a"])


def test_commands(tmp_path, data_list, capsys):
    """Choose an ensemble, choose post-processing for it, and apply both."""
    paths = choice_members(tmp_path)
    words = ["--members", *paths, "--data_list", data_list, "--output", tmp_path / "choice.json"]
    assert run_script("choose_ensemble", *words) == 0
    assert "chosen: a + b (3 cases)" in capsys.readouterr().out
    common = ["--members", *paths, "--rule", tmp_path / "choice.json"]
    assert run_script("fuse", *common, "--output_dir", tmp_path / "fused") == 0
    words = ["--predictions", tmp_path / "fused", "--data_list", data_list, "--output", tmp_path / "rules.json"]
    assert run_script("choose_postprocessing", *words) == 0
    rules = json.loads((tmp_path / "rules.json").read_text())
    assert rules["dice_after"] >= rules["dice_before"]
    assert "largest_vs" in rules["postprocessing_rules"]
    more = ["--postprocessing", tmp_path / "rules.json", "--data_list", data_list, "--section", "source_training"]
    assert run_script("fuse", *common, "--output_dir", tmp_path / "best", *more) == 0
    report = json.loads((tmp_path / "best" / "c0_seg.json").read_text())
    assert report["fused"] == ["a", "b"]
    assert report["postprocessing_rules"] == rules["postprocessing_rules"]
    summary = json.loads((tmp_path / "best" / "summary.json").read_text())
    assert summary["all"]["dice"]["mean"]["mean"] == pytest.approx(rules["dice_after"])


@pytest.mark.parametrize(
    ("name", "words", "fault"),
    [
        ("fuse", ["--members", "none", "--rule", "mean", "--output_dir", "out"], "none is not a folder"),
        ("fuse", ["--members", ".", "--rule", "c.json", "--output_dir", "out"], "c.json can't be read"),
        (
            "choose_ensemble",
            ["--members", ".", "--data_list", "LIST", "--output", "c.json"],
            "c0_prob.nii.gz is missing",
        ),
        (
            "choose_postprocessing",
            ["--predictions", ".", "--data_list", "LIST", "--output", "r.json"],
            "c0_seg.nii.gz is",
        ),
        ("fuse", ["--members", "m", "--rule", "mean", "--output_dir", "LIST"], "can't be made (File exists)"),
        ("choose_ensemble", ["--members", "m", "--data_list", "LIST", "--output", "m"], "m can't be written"),
        ("choose_postprocessing", ["--predictions", "m", "--data_list", "LIST", "--output", "m"], "m can't be written"),
    ],
)
def test_commands_name_faults_in_one_line(name, words, fault, tmp_path, data_list, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_member(tmp_path / "m", range(3), 0)
    with pytest.raises(SystemExit) as stop:
        run_script(name, *[str(data_list) if word == "LIST" else word for word in words])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert fault in error
