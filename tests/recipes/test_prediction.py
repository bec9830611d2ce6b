"""A run applied to new scans: what is refused, in one line."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import yaml
from recipe_run import RECIPES
from segmentation_bundle import oblique_affine

from crossmoda.errors import InputError
from crossmoda.recipes import apply_run, load_recipe, read_presets, resolve
from crossmoda.recipes.prediction import read_run


def write_run(folder, name="li2021", finished=True):
    """A run's folder with empty files for weights."""
    folder.mkdir()
    config = resolve(load_recipe(name, RECIPES), "phantom", read_presets(RECIPES), folder)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(config))
    for system in config["systems"] if finished else ():
        for file in ("trained", "model/model.pt"):
            path = folder / "segmentation" / system / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return folder


def save_scan(path):
    image = np.arange(256, dtype=np.int16).reshape(8, 8, 4)
    nib.save(nib.Nifti1Image(image, oblique_affine()), path)
    return path


def test_a_run_that_was_moved_keeps_its_paths(tmp_path):
    moved = write_run(tmp_path / "run").rename(tmp_path / "moved")
    pipeline = read_run(moved)
    assert pipeline.weights("unet3d") == {"ckpt_dir": moved / "segmentation" / "unet3d" / "model"}


@pytest.mark.parametrize(
    ("name", "finished", "message"),
    [
        ("li2021", False, r"unet2d5_gamma20/trained is missing: the run is not finished"),
        ("shin2021", True, r"self_training/ensemble/ensemble\.json is missing: the run is not finished"),
    ],
)
def test_an_unfinished_run(name, finished, message, tmp_path):
    with pytest.raises(InputError, match=message):
        apply_run(write_run(tmp_path / "run", name, finished), [save_scan(tmp_path / "a.nii.gz")], tmp_path / "out")


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(InputError, match=r"recipe\.yaml is missing: give the --output_dir of a finished"):
        apply_run(tmp_path, ["a.nii.gz"], tmp_path / "out")
    (tmp_path / "recipe.yaml").write_text("name: demo\n")
    with pytest.raises(InputError, match="names no final system"):
        apply_run(tmp_path, ["a.nii.gz"], tmp_path / "out")


def test_scans_that_are_missing_or_of_one_name(tmp_path):
    run = write_run(tmp_path / "run")
    with pytest.raises(InputError, match=r"none\.nii\.gz"):
        apply_run(run, [tmp_path / "none.nii.gz"], tmp_path / "out")
    first, second = tmp_path / "a_hrT2.nii.gz", tmp_path / "a.nii.gz"
    with pytest.raises(InputError, match="are both of case a: rename one"):
        apply_run(run, [save_scan(first), save_scan(second)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_series_that_is_doubled(tmp_path, write_series):
    run = write_run(tmp_path / "run")
    affine = np.diag([-0.5, -0.5, 2.0, 1.0])
    folders = [tmp_path / "x" / "series", tmp_path / "y" / "series"]
    for folder in folders:
        write_series(folder, np.ones((6, 6, 3), np.int16), affine)
    with pytest.raises(InputError, match="another folder are called series: rename one"):
        apply_run(run, folders, tmp_path / "out")
