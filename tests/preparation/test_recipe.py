"""Recipes: found, changed, completed, written and read again; each builds for each modality and for inference."""

import json

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, InvertibleTransform

from crossmoda.errors import InputError
from crossmoda.preparation import Recipe, preprocessing, recipe_names
from crossmoda.preparation.recipe import KEYS, RECIPES, TakeOutRegistration, root_cause

LEARNED = {
    "li2021": {"roi_start": [100, 150, 20]},
    "han2022": {"reference_ceT1": "/r/a.nii.gz", "reference_hrT2": "/r/b.nii.gz", "atlas": None},
}


def complete(name: str) -> Recipe:
    return Recipe.load(name, LEARNED.get(name))


def test_the_papers_are_there() -> None:
    assert set(recipe_names()) == {"li2021", "shin2021", "chen2023", "kang2022", "han2022", "choi2021"}


@pytest.mark.parametrize("name", ["shin2021", "chen2023", "kang2022", "choi2021", "li2021"])
@pytest.mark.parametrize("modality", ["ceT1", "hrT2"])
@pytest.mark.parametrize("keys", [KEYS, ("image", "label"), ("image",)])
def test_pipelines_build(name: str, modality: str, keys) -> None:
    pipeline = complete(name).pipeline(modality, "source_training", keys)
    assert isinstance(pipeline, Compose)
    assert any(isinstance(transform, InvertibleTransform) for transform in pipeline.flatten().transforms)


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_numbers_of_the_papers_carry_their_source(name: str) -> None:
    lines = (RECIPES / f"{name}.yaml").read_text().splitlines()
    settings = Recipe.load(name).settings
    for line in lines:
        setting = line.partition(":")[0]
        if setting in settings and setting != "num_classes":
            assert "#" in line, f"{name}: {setting} has no source"


def test_numbers_are_the_papers() -> None:
    li = Recipe.load("li2021").settings
    assert (li["template_shape"], li["template_spacing"]) == ([512, 512, 128], [0.377, 0.447, 1.508])
    assert li["roi_size"] == [256, 128, 48]
    han = Recipe.load("han2022").settings
    assert (han["levels"], han["points"], han["size"]) == (1024, 7, [256, 256, 80])
    assert Recipe.load("kang2022").settings["spacing"] == [0.41, 0.41, 1.5]
    assert Recipe.load("chen2023").settings["slices"] == 40


def test_changes_replace_settings_and_unknown_ones_are_told() -> None:
    assert Recipe.load("li2021", {"roi_size": [256, 128, 96]}).config["roi_size"] == [256, 128, 96]
    with pytest.raises(InputError, match="no setting 'roi_sise': did you mean roi_size"):
        Recipe.load("li2021", {"roi_sise": 1})
    with pytest.raises(InputError, match="no setting 'modality'"):  # the program's own
        Recipe.load("li2021", {"modality": "hrT2"})


def test_unknown_recipes_and_files_are_told(tmp_path) -> None:
    with pytest.raises(InputError, match="take one of chen2023"):
        Recipe.load("li2020")
    path = tmp_path / "mine.yaml"
    path.write_text("a: [1")
    with pytest.raises(InputError, match="not a YAML file"):
        Recipe.load(path)
    path.write_text("a: 1")
    with pytest.raises(InputError, match="has no 'preprocessing'"):
        Recipe.load(path)


def test_a_recipe_of_ones_own(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text((RECIPES / "shin2021.yaml").read_text().replace("[256, 256, -1]", "[128, 128, -1]"))
    recipe = Recipe.load(path)
    assert recipe.name == "mine"
    assert recipe.settings["size"] == [128, 128, -1]


def test_a_value_that_no_transform_takes_is_told() -> None:
    with pytest.raises(InputError, match="recipe shin2021 can't be used"):
        Recipe.load("shin2021", {"spacing": "wide"}).pipeline("ceT1")


def test_what_must_be_learned_is_asked_for() -> None:
    recipe = Recipe.load("li2021")
    assert recipe.lacks == "roi"
    with pytest.raises(InputError, match="learns its roi from the data"):
        recipe.pipeline("ceT1")
    assert Recipe.load("li2021", {"roi_size": None}).lacks is None  # the ablation without a crop
    assert Recipe.load("han2022").lacks == "references"
    assert complete("li2021").lacks is None


def test_written_and_read_again(tmp_path) -> None:
    (tmp_path / "references").mkdir()
    files = {}
    for name in ("reference_ceT1", "reference_hrT2", "atlas"):
        files[name] = str(tmp_path / "references" / f"{name}.nii.gz")
        (tmp_path / "references" / f"{name}.nii.gz").write_bytes(b"x")
    recipe = Recipe.load("han2022", files)
    recipe.write(tmp_path)
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    again = Recipe.read(moved)
    assert again.config["atlas"] == str(moved / "references" / "atlas.nii.gz")
    assert {**again.config, **files} == recipe.config
    (moved / "references" / "atlas.nii.gz").unlink()
    with pytest.raises(InputError, match=r"atlas\.nii\.gz is missing"):
        Recipe.read(moved)


def test_bad_preparation_files_are_told(tmp_path) -> None:
    with pytest.raises(InputError, match=r"make it with scripts/prepare\.py"):
        preprocessing(tmp_path, "hrT2")
    (tmp_path / "preparation.json").write_text(json.dumps({"recipe": "li2021"}))
    with pytest.raises(InputError, match=r"not what scripts/prepare\.py writes"):
        preprocessing(tmp_path, "hrT2")
    with pytest.raises(InputError, match="give --preparation"):
        preprocessing("", "hrT2")


def test_inference_has_no_record_left(caplog) -> None:
    image = MetaTensor(torch.zeros(1, 2, 2, 2), meta={"filename_or_obj": "scan.nii.gz"})
    out = TakeOutRegistration()({"image": image, "registration": {"failure": "little overlap"}})
    assert set(out) == {"image"}
    assert "scan.nii.gz: registration failed (little overlap)" in caplog.text


def test_chen_samples_have_forty_slices() -> None:
    sampling = Recipe.load("chen2023").pipeline("hrT2", keys=("image", "label"), part="sampling")
    for depth in (24, 40, 90):
        image = torch.arange(depth).float().expand(1, 8, 8, depth)
        out = sampling({"image": MetaTensor(image), "label": MetaTensor((image > 3).float())})
        assert out["image"].shape == out["label"].shape == (1, 8, 8, 40)
        slices = out["image"][0, 0, 0].numpy()
        inside = slices[: min(depth, 40)]
        assert np.array_equal(inside, inside[0] + np.arange(len(inside)))  # neighbours stay neighbours
        assert (slices[min(depth, 40) :] == -1).all()  # padded with the least value
        assert np.array_equal(out["label"][0, 0, 0].numpy(), (slices > 3).astype(np.float32))


def test_root_cause() -> None:
    outer, middle, inner = RuntimeError("pipeline"), RuntimeError("transform"), InputError("scan.nii.gz is bad")
    outer.__cause__, middle.__cause__ = middle, inner
    assert root_cause(outer) is inner
    assert root_cause(inner) is inner
