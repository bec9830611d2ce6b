"""From the prepared grid back to the scan's: labels and images, with and without a moved affine."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Invertd

from crossmoda.errors import InputError
from crossmoda.preparation import Recipe, prepare, read_sidecar, restore, to_scan_grid

FINE = {"spacing": [0.8, 0.8, 1.2], "size": [96, 96, -1]}


def dice(first: np.ndarray, second: np.ndarray, value: int) -> float:
    a, b = first == value, second == value
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.fixture(params=["nearest", "linear"])
def prepared(request, raw: Path, tmp_path: Path) -> Path:
    recipe = Recipe.load("shin2021", {**FINE, "label_mode": request.param, "back_mode": request.param})
    prepare(raw, recipe, tmp_path / "out", progress=False)
    return tmp_path / "out" / "source_training"


@pytest.mark.parametrize("case", ["a", "b"])
def test_label_comes_back(raw: Path, prepared: Path, tmp_path: Path, case: str) -> None:
    output = tmp_path / "back.nii.gz"
    restore(prepared / f"{case}_Label.nii.gz", prepared / f"{case}_ceT1.json", output)
    scan, back = nib.load(raw.parent / f"{case}_image.nii.gz"), nib.load(output)
    assert back.shape == scan.shape
    assert np.array_equal(back.affine, scan.affine)
    assert back.get_data_dtype() == np.uint8
    truth = nib.load(raw.parent / f"{case}_Label.nii.gz").get_fdata()
    assert dice(back.get_fdata(), truth, 1) > 0.97
    assert dice(back.get_fdata(), truth, 2) > 0.9


def test_restore_agrees_with_the_inverse_transform(raw: Path, prepared: Path) -> None:
    recipe = Recipe.load("shin2021", FINE)
    pipeline = recipe.pipeline("ceT1", "source_training", ["image"])
    data = pipeline({"image": str(raw.parent / "a_image.nii.gz")})
    data["pred"] = data["image"].clone()
    inverted = Invertd("pred", pipeline, orig_keys="image", nearest_interp=False)(data)["pred"][0].numpy()
    image = nib.load(prepared / "a_ceT1.nii.gz")
    restored = to_scan_grid(image.get_fdata(), image.affine, read_sidecar(prepared / "a_ceT1.json"), label=False)
    inside = np.zeros(inverted.shape, bool)
    inside[4:-4, 4:-4, 2:-2] = True  # the two treat the outside differently
    assert np.abs(inverted - restored)[inside].max() < 0.02


def test_a_moved_affine_is_taken_back(prepared: Path) -> None:
    """A label shifted by a registration of 5 mm lies 5 mm elsewhere in the template's world, and comes back."""
    sidecar = read_sidecar(prepared / "a_ceT1.json")
    label = nib.load(prepared / "a_Label.nii.gz")
    here = to_scan_grid(np.asarray(label.dataobj), label.affine, sidecar, label=True)
    move = np.eye(4)
    move[:3, 3] = [5, -3, 2]
    there = {**sidecar, "scan_from_prepared": np.linalg.inv(move).tolist()}
    again = to_scan_grid(np.asarray(label.dataobj), move @ label.affine, there, label=True)
    assert np.array_equal(here, again)


def test_wrong_files_are_told(prepared: Path, raw: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not lie on the grid"):
        restore(raw.parent / "a_Label.nii.gz", prepared / "a_ceT1.json", tmp_path / "x.nii.gz")
    with pytest.raises(InputError, match="is missing"):
        read_sidecar(prepared / "no.json")
    (tmp_path / "no.json").write_text(json.dumps({"case": "a"}))
    with pytest.raises(InputError, match="is not a sidecar"):
        read_sidecar(tmp_path / "no.json")
    assert not (tmp_path / "x.nii.gz").exists()
