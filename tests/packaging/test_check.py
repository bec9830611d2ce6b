"""The strict check: each mistake is found, named by its id, and the nearest name is given; our bundles have none."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from crossmoda.bundle import flatten_config
from crossmoda.errors import InputError
from crossmoda.packaging import check_bundle, check_config
from crossmoda.packaging.check import workflows
from crossmoda.packaging.ids import nearest, reached

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = sorted(path for path in (ROOT / "bundles").iterdir() if (path / "configs").is_dir())
SEGMENTATION = ROOT / "bundles/segmentation-2.5d"
METHODS = [(path.parents[2], f"methods/{path.stem}") for path in sorted(ROOT.glob("bundles/*/configs/methods/*.yaml"))]
TRAININGS = ("train", "pretrain", "finetune")
# Overlays that need another one below them
BELOW = {"methods/li2021_attention": ["methods/li2021"]}


@pytest.mark.parametrize("root", BUNDLES, ids=lambda path: path.name)
def test_our_bundles_have_no_fault(root):
    assert check_bundle(root) == []


@pytest.mark.slow
@pytest.mark.parametrize(("root", "method"), METHODS, ids=lambda value: getattr(value, "name", value))
def test_our_methods_have_no_fault(root, method):
    assert check_bundle(root, [*BELOW.get(method, []), method]) == []


@pytest.mark.parametrize(
    "path",
    [
        path
        for name in ("train", "pretrain", "finetune")
        for path in sorted(ROOT.glob(f"bundles/*/configs/{name}.yaml"))
    ],
    ids=lambda path: f"{path.parts[-3]}-{path.stem}",
)
def test_trainings_in_several_processes_have_no_fault(path):
    assert check_config(path.parents[1], path.stem, ["multi_gpu_train"]) == []


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ({"max_epoch": 3}, "unknown key 'max_epoch': did you mean 'max_epochs'?"),
        ({"lr": 0.1}, "unknown key 'lr': did you mean 'optimizer::lr'?"),
        ({"optimizer::lrr": 0.1}, "unknown key 'optimizer::lrr': did you mean 'optimizer::lr'?"),
        ({"train::trainer::max_epoch": 1}, "unknown key 'train::trainer::max_epoch': did you mean"),
        ({"qqqqq": 1}, "unknown key 'qqqqq'"),
        ({"learning_rate": "@lern_rate"}, "learning_rate: '@lern_rate' does not exist: did you mean 'learning_rate'?"),
        ({"loss": {"_target_": "DiceLos"}}, "loss: there is no DiceLos: did you mean 'DiceLoss'?"),
        ({"optimizer::_target_": "torch.optim.Adm"}, "there is no torch.optim.Adm: did you mean 'torch.optim.Adam'?"),
        ({"loss": {"_target_": "DiceLoss", "sofmax": True}}, "DiceLoss has no argument 'sofmax': did you mean"),
        ({"deep_loss": "@loss", "loss": "@deep_loss"}, "references go in a circle: "),
        ({"seed": "$torhc.initial_seed()"}, "seed: 'torhc' is defined by no import: did you mean 'torch'?"),
        ({"seed": "$torch.initial_sed()"}, "seed: torch has no 'initial_sed': did you mean 'initial_seed'?"),
        ({"seed": "$@batch_size + len('imports')"}, "seed: MONAI cannot read an expression with both 'import' and"),
        ({"seed": "$1 +"}, "seed: '$1 +' is not Python"),
        ({"train::handlers": "$[]"}, "train::handlers: must be a list of handlers"),
        ({"train::trainer::train_handlers": []}, "train::trainer::train_handlers: write '@train::handlers'"),
        ({"data_list": "run#3.json"}, "data_list: '#' becomes '::' in 'run#3.json'"),
    ],
    ids=str,
)
def test_mistakes_on_the_command_line(override, fault):
    (found,) = check_config(SEGMENTATION, "train", overrides=override)
    assert found.startswith("train: ")
    assert fault in found


def test_what_is_right_is_passed_over():
    values = {"max_epochs": 3, "network_def::channels": [4, 4], "optimizer::amsgrad": True, "tracking": "mlflow"}
    values |= {"experiment_name": "mine", "train#trainer#max_epochs": 4, "train::handlers::0::_disabled_": True}
    assert check_config(SEGMENTATION, "train", ["li2021", "phantom"], values) == []


def write(path: Path, content: dict) -> str:
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_mistakes_in_an_overlay_of_ones_own(tmp_path):
    overlay = write(tmp_path / "mine.yaml", {"max_epoch": 1, "half_life": 2, "learning_rate": "$1 / @half_life"})
    assert check_config(SEGMENTATION, "train", [overlay]) == [
        "train: mine.yaml: no config knows 'max_epoch': did you mean 'max_epochs'?"
    ]
    inside = write(tmp_path / "inside.yaml", {"train::handlrs::2::_disabled_": True})
    with pytest.raises(InputError, match=r"inside\.yaml changes a place that the files before it do not have"):
        check_config(SEGMENTATION, "train", [inside])


def broken(tmp_path: Path, change) -> Path:
    root = shutil.copytree(SEGMENTATION, tmp_path / "segmentation", ignore=shutil.ignore_patterns("models", "eval"))
    change(root)
    return root


def change_metadata(root: Path, **values) -> None:
    path = root / "configs" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def remove_key(root: Path, key: str) -> None:
    config = flatten_config([root / "configs" / "train.yaml"])
    part, _, last = key.rpartition("::")
    del (config[part] if part else config)[last]
    write(root / "configs" / "train.yaml", config)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda root: (root / "LICENSE").unlink(), "LICENSE is missing"),
        (lambda root: change_metadata(root, task=3), "metadata.json: task: 3 is not of type 'string'"),
        (
            lambda root: change_metadata(root, version="9.9.9"),
            "metadata.json: changelog: has no entry for",
        ),
        (
            lambda root: change_metadata(root, monai_version="1.0.0"),
            "metadata.json: monai_version: is 1.0.0, but",
        ),
        (lambda root: remove_key(root, "run"), "train: there is no 'run'"),
        (lambda root: remove_key(root, "train::inferer"), "train: 'train::inferer' is missing, which MONAI requires"),
    ],
    ids=["no licence", "schema", "changelog", "versions", "no run", "no property"],
)
def test_mistakes_in_the_bundle(change, fault, tmp_path):
    faults = check_bundle(broken(tmp_path, change))
    assert faults[0].startswith(fault)
    assert all("\n" not in line for line in faults)


def test_only_what_is_used_is_looked_at():
    config = {"run": ["$@a.go()"], "a": {"_target_": "A", "b": "@b::1"}, "b": [1, "@c"], "c": 2, "unused": "@nothing"}
    assert reached(config, ["run", "absent"]) == {
        "run": ["$@a.go()"],
        "run::0": "$@a.go()",
        "a": config["a"],
        "a::_target_": "A",
        "a::b": "@b::1",
        "b::1": "@c",
        "c": 2,
    }


def test_nearest_name():
    assert nearest("lr", ["blur", "optimizer::lr"]) == ": did you mean 'optimizer::lr'?"
    assert nearest("max_epoch", ["seed", "max_epochs"]) == ": did you mean 'max_epochs'?"
    assert nearest("zzz", ["seed"]) == ""


def test_workflows_and_not_overlays_are_looked_at():
    for root in BUNDLES:
        assert workflows(root), root
    assert workflows(SEGMENTATION) == ["evaluate", "inference", "train"]


def test_command(tmp_path):
    def run(*words):
        command = [sys.executable, str(ROOT / "scripts/check_bundle.py"), *words]
        return subprocess.run(command, capture_output=True, encoding="utf-8", cwd=tmp_path)

    done = run("segmentation-2.5d", "--config", "train", "--overlays", "li2021", "--override", "max_epoch=3")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1:] == [
        "segmentation-2.5d: train: unknown key 'max_epoch': did you mean 'max_epochs'?"
    ]
    assert "no fault found" in run(str(SEGMENTATION), "--config", "inference").stdout
    assert run("segmentation-9d").returncode == 2
