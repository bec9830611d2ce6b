"""Every recipe with every preset plans the jobs that its paper's numbers ask for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from recipe_run import RECIPES, write_scans
from segmentation_bundle import ROOT

from crossmoda.pipeline import Pipeline
from crossmoda.recipes import load_recipe, read_presets, recipe_names, resolve, stages_of, targets_until

PAPERS = ("chen2023", "han2022", "kang2022", "li2021", "shin2021")
FOLDS = range(5)
TRANSLATION = {"train_translator", "translate", "judge_translations", "pool_views"}
ONCE = {"reference", "case_reports", "start_tracking", "report", "end_tracking", "all"}
LI = {"unet2d5_gamma20", "unet2d5_gamma15", "unet3d", "unet3d_attention"}
BOUNDS = {"source-only", "oracle"}


def folds_of(*systems, folds=FOLDS):
    return {f"{system} {fold}" for system in systems for fold in folds}


# recipe: what each rule is run on, at the paper's sizes and without a truth.
PAPER = {
    "li2021": {  # 3.7: four networks; the union
        "train_translator": {"cyclegan"},
        "train_segmenter": LI,
        "fuse": {"union"},
    },
    "shin2021": {  # 2.1 to 2.3: one translator, a cross-validated 3D teacher, one self-training
        "train_translator": {"cyclegan_segmenter"},
        "train_fold": folds_of("nnunet_3d"),
        "self_train": {"ensemble"},
    },
    "kang2022": {  # 3.2 and 3.3: two views, 2D and 3D nnU-Net of five folds
        "train_translator": {"cyclegan", "qs_attn"},
        "pool_views": {"multi_view"},
        "train_fold": folds_of("nnunet_3d", "nnunet_2d"),
        "self_train": {"ensemble"},
    },
    "han2022": {  # 3.1: real and generated images pooled, five folds of one network
        "train_translator": {"msf_net"},
        "pool_views": {"both_modalities"},
        "train_fold": folds_of("nnunet"),
    },
    "chen2023": {  # 2.3: one network, self-training
        "train_translator": {"cut"},
        "train_segmenter": {"resunet2d5"},
        "self_train": {"rounds"},
    },
    "li2021_self_training": {  # li2021 and rounds of its four networks
        "train_translator": {"cyclegan"},
        "train_segmenter": LI,
        "fuse": {"union"},
        "self_train": {"rounds"},
    },
    "best": {
        "train_translator": {"cyclegan"},
        "train_segmenter": {"unet2d5", "nnunet_3d", "nnunet_2d"},
        "fuse": {"before_self_training"},
        "self_train": {"ensemble"},
    },
}
BASE = {"li2021": None, "shin2021": "nnunet_3d", "kang2022": "nnunet_3d", "han2022": "nnunet"}  # of bounds with folds


def expected(name: str, preset: str, judged: bool) -> dict[str, set[str]]:
    """Rules and what they are run on."""
    jobs = {rule: set(names) for rule, names in PAPER[name].items()}
    if preset == "phantom":
        jobs = {rule: {n for n in names if rule != "train_fold" or n.endswith(" 0")} for rule, names in jobs.items()}
    systems = jobs.get("train_segmenter", set()) | {fold.split()[0] for fold in jobs.get("train_fold", set())}
    if judged:
        rule = "train_fold" if BASE.get(name) else "train_segmenter"
        jobs[rule] = jobs[rule] | (folds_of(*BOUNDS, folds=[0]) if BASE.get(name) else BOUNDS)
        systems = systems | BOUNDS
    jobs |= {"evaluate": systems, "translate": jobs["train_translator"], "judge_translations": jobs["train_translator"]}
    if "self_train" in jobs:
        rules = ["predict_self_training", *(["judge_self_training", "judge_rounds"] if judged else [])]
        jobs |= dict.fromkeys(rules, jobs["self_train"])
    once = set(ONCE)
    if preset == "phantom":
        once |= {"phantom", "datalist", "oracle_datalist"}
    else:
        once |= {"prepare"} | ({"prepare_truth"} if judged and name != "chen2023" else set())
    return jobs | {rule: {""} for rule in once}


def dry_run(config: dict, folder: Path, *options: str) -> str:
    """What Snakemake says that it would do."""
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "scripts" / "Snakefile"), "--dry-run"]
    command += ["--configfile", str(file), "--directory", str(folder), "--cores", "2", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text[-3000:]
    return text


def blocks(text: str) -> Iterator[tuple[str, str, str]]:
    """Of each job of a dry run: rule, the values of its wildcards, what Snakemake says of it."""
    for block in re.split(r"\n(?=(?:local)?rule \w+:\n)", text.split("Job stats", 2)[1])[1:]:
        wildcards = re.search(r"^    wildcards: (.*)$", block, re.MULTILINE)
        values = [pair.split("=")[1] for pair in wildcards[1].split(", ")] if wildcards else []
        yield re.match(r"(?:local)?rule (\w+):", block)[1], " ".join(values), block


def plan(config: dict, folder: Path, *options: str) -> dict[str, set[str]]:
    """Jobs of a dry run: rule -> the values of its wildcards."""
    jobs = defaultdict(set)
    for rule, job, _ in blocks(dry_run(config, folder, *options)):
        assert job not in jobs[rule], f"{rule} {job} twice"
        if not rule.startswith("koos"):  # of rules/koos.smk
            jobs[rule].add(job)
    return {rule: found for rule, found in jobs.items() if found}


def commands(config: dict, folder: Path) -> dict[str, str]:
    """Jobs of a dry run: rule and wildcards -> files and command."""
    found = blocks(dry_run(config, folder, "--printshellcmds"))
    return {f"{rule} {job}".strip(): text for rule, job, text in found}


def options_of(command: str) -> set[str]:
    """`--NAME VALUE` of a command line."""
    return set(re.findall(r"--\w+ \S+", command))


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    data, truth = write_scans(tmp_path_factory.mktemp("data") / "scans")
    for path in (data, truth):
        content = json.loads(path.read_text())
        for item in content["source_training"]:
            item["parcellation"] = item["label"]
        path.write_text(json.dumps(content))
    return data, truth


def config_of(name, preset, folder, data=None, truth=None, **changes):
    return resolve(load_recipe(name, RECIPES), preset, read_presets(RECIPES), folder / "run", data, truth, changes)


def test_the_five_systems_and_ours_are_there():
    assert set(recipe_names(RECIPES)) == {*PAPERS, "best", "li2021_self_training"}


@pytest.mark.parametrize("name", PAPER)
def test_phantom(name, tmp_path):
    config = config_of(name, "phantom", tmp_path)
    assert plan(config, tmp_path) == expected(name, "phantom", judged=True)
    entries = [*config["translators"].values(), *config["systems"].values(), *config.get("self_training", {}).values()]
    assert all(entry["overlays"][-1] == "phantom" for entry in entries)


@pytest.mark.parametrize("name", PAPER)
def test_paper_sizes_on_own_data(name, scans, tmp_path):
    assert plan(config_of(name, "paper", tmp_path, scans[0]), tmp_path) == expected(name, "paper", judged=False)


@pytest.mark.parametrize("name", ["li2021", "shin2021"])
def test_paper_sizes_judged_by_a_truth(name, scans, tmp_path):
    assert plan(config_of(name, "paper", tmp_path, *scans), tmp_path) == expected(name, "paper", judged=True)


def test_until_a_stage(scans, tmp_path):
    config = config_of("kang2022", "paper", tmp_path, scans[0])
    assert stages_of(config) == ["prepare", "translate", "segment", "self-train", "report"]
    jobs = plan(config, tmp_path, "--", *targets_until(config, "segment"))
    assert set(jobs) == {"prepare", "start_tracking", *TRANSLATION, "train_fold", "evaluate"}


@pytest.mark.parametrize("name", ["demo", "translators", "segmenters"])
def test_recipes_of_the_snakefile_s_own_form(name, tmp_path):
    config = yaml.safe_load((RECIPES / f"{name}.yaml").read_text()) | {"output_dir": str(tmp_path / "run")}
    jobs = plan(config, tmp_path)
    assert jobs["train_segmenter"] == jobs["evaluate"] == set(config["systems"])
    assert jobs.get("fuse", set()) == set(config.get("fusions", {}))
    assert "prepare" not in jobs
    assert "self_train" not in jobs


@pytest.mark.parametrize(("name", "graded"), [("han2022", True), ("li2021", False)])
def test_case_reports_have_the_grades(name, graded, tmp_path):
    text = dry_run(config_of(name, "phantom", tmp_path), tmp_path, "--printshellcmds")
    command = next(line for line in text.splitlines() if "report_case.py" in line)
    koos = re.search(r"--koos=(\S+)", command)
    assert bool(koos) == graded
    assert not graded or f"{koos[1]}/grades.csv" in text


def test_a_fusion_s_first_member_compares_scans_with_the_training_s(tmp_path):
    jobs = commands(config_of("li2021", "phantom", tmp_path), tmp_path)
    folder = tmp_path / "run" / "segmentation" / "unet2d5_gamma20"
    assert "segmentation-2.5d/configs/inference.yaml" in jobs["reference"]
    assert "/reference.yaml" in jobs["reference"]
    assert {f"--ckpt_dir {folder}/model", f"--output_dir {folder}/reference"} <= options_of(jobs["reference"])
    assert "--save_probabilities False" in options_of(jobs["reference"])
    assert "oracle.json" not in jobs["reference"]
    inputs = jobs["evaluate unet2d5_gamma20"]
    assert f"{folder}/model/reference.json" in inputs
    assert all(
        "reference.json" not in text for job, text in jobs.items() if job.startswith("evaluate") and text != inputs
    )


def test_folds_make_one_reference_together(scans, tmp_path):
    config = config_of("han2022", "paper", tmp_path, scans[0])
    jobs = commands(config, tmp_path)
    folder = tmp_path / "run" / "segmentation" / "nnunet"
    for job in ("reference", "evaluate nnunet"):
        assert {f"--ckpt_dir {folder}/model", f"--preparation {tmp_path}/run/prepared"} <= options_of(jobs[job])
        assert all(f"{folder}/fold{fold}/model/model.pt" in jobs[job] for fold in FOLDS)
    assert "preparation.yaml" in jobs["reference"]
    assert f"--data_list {scans[0]}" in options_of(jobs["reference"])


def test_the_ensemble_of_a_self_training_has_a_reference_beside_it(scans, tmp_path):
    jobs = commands(config_of("shin2021", "paper", tmp_path, *scans), tmp_path)
    folder = tmp_path / "run" / "self_training" / "ensemble"
    assert "self-training/configs/reference.yaml" in jobs["reference"]
    assert {f"--ensemble {folder}/ensemble.json", f"--preparation {tmp_path}/run/prepared"} <= options_of(
        jobs["reference"]
    )
    assert f"{folder}/reference.json" in jobs["predict_self_training ensemble"]


def jobs_of(text: str, rule: str) -> int:
    return len(re.findall(rf"^(?:local)?rule {rule}:$", text, re.MULTILINE))


def test_grades_of_han2022(tmp_path):
    text = dry_run(config_of("han2022", "phantom", tmp_path), tmp_path)  # Han 2022, 3.2: five folds, both stages
    found = {rule: jobs_of(text, f"koos_{rule}") for rule in ("pretrain", "finetune", "grade", "judge")}
    assert found == {"pretrain": 5, "finetune": 5, "grade": 1, "judge": 1}
    assert f"{tmp_path}/run/koos/msf_koos_net/seed0/judged/metrics.json" in text


def test_the_recipe_of_the_koos_methods(tmp_path):
    config = yaml.safe_load((RECIPES / "koos.yaml").read_text()) | {"output_dir": str(tmp_path / "run")}
    pipeline = Pipeline(config)
    methods = [(method, seed) for method in pipeline.koos_methods for seed in pipeline.koos_seeds(method)]
    text = dry_run(config, tmp_path)
    assert jobs_of(text, "koos_judge") == len(methods)
    trained = sum(len(pipeline.koos_seeds(name)) for name in pipeline.koos_networks)
    assert jobs_of(text, "koos_finetune") == trained * len(pipeline.koos_folds())
    assert jobs_of(text, "koos_grade") == trained
    assert jobs_of(text, "koos_geometry") == jobs_of(text, "koos_combine") == 3


def test_the_recipe_of_self_training(tmp_path):
    config = yaml.safe_load((RECIPES / "self_training.yaml").read_text()) | {"output_dir": str(tmp_path / "run")}
    jobs = plan(config, tmp_path)
    assert jobs["self_train"] == jobs["judge_rounds"] == set(config["self_training"])


RULES = [ROOT / "scripts" / "Snakefile", *(ROOT / "scripts" / "rules").glob("*.smk")]


def test_a_changed_value_is_seen():
    """Snakemake does not compare what a function of input or output gives with what it gave before."""
    functions = [match for file in RULES for match in re.findall(r"lambda (\w+(?:, \w+)*):", file.read_text())]
    assert functions
    assert set(functions) == {"wildcards"}


def test_every_rule_with_a_gpu_asks_slurm_for_one():
    rules = re.split(r"\n *rule (\w+):\n", "\n".join(path.read_text() for path in RULES))
    on_gpu = {name for name, body in zip(rules[1::2], rules[2::2], strict=True) if "resources: gpu=GPU" in body}
    profile = yaml.safe_load((ROOT / "scripts" / "profiles" / "slurm" / "config.yaml").read_text())
    assert {"train_segmenter", "self_train", "koos_finetune"} <= on_gpu
    assert {name for name, wants in profile["set-resources"].items() if wants.get("gpu")} == on_gpu | {"train_fold"}
