"""Recipes with presets, data and changes; faults in one line."""

from __future__ import annotations

import copy
import json

import pytest
import yaml
from recipe_run import RECIPES, write_recipe, write_scans

from crossmoda.errors import InputError
from crossmoda.pipeline import Pipeline
from crossmoda.recipes import change, load_recipe, read_changes, read_presets, recipe_names, resolve, targets_until
from crossmoda.recipes.settings import merged
from crossmoda.recipes.values import check_values

PRESETS = read_presets(RECIPES)


def config_of(name, preset="phantom", folder="/runs/x", data=None, truth=None, **changes):
    return resolve(load_recipe(name, RECIPES), preset, PRESETS, folder, data, truth, changes)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    return write_scans(tmp_path_factory.mktemp("data") / "scans")


# --- settings -----------------------------------------------------------------------------------------------------


def test_changes_are_read_as_yaml():
    entries = ["seed=3", "a::b=[1, 2]", "c=null", "d=true", "e=x=y"]
    assert read_changes(entries) == {"seed": 3, "a::b": [1, 2], "c": None, "d": True, "e": "x=y"}


@pytest.mark.parametrize("entry", ["seed", "=3", "a=[1"])
def test_a_change_of_another_form_is_one_line(entry):
    with pytest.raises(InputError, match=r"^--config [^\n]*$"):
        read_changes([entry])


def test_levels_below_a_name_are_made_and_the_recipe_stays():
    recipe = {"translators": {"cut": {"overlays": []}}}
    before = copy.deepcopy(recipe)
    changed = change(recipe, {"translators::cut::train::max_epochs": 3}, ("translators",))
    assert changed == {"translators": {"cut": {"overlays": [], "train": {"max_epochs": 3}}}}
    assert recipe == before


def test_what_an_anchor_shares_is_changed_once():
    recipe = yaml.safe_load("{systems: {a: &x {train: {n: 1}}, b: *x}}")
    changed = change(recipe, {"systems::a::train::n": 2}, ("systems",))
    assert changed == {"systems": {"a": {"train": {"n": 2}}, "b": {"train": {"n": 1}}}}


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("sed", "did you mean seed"),
        ("translators::cyclegn::train::max_epochs", "did you mean cyclegan"),
        ("views::a::b", "it has no entries"),
    ],
)
def test_an_unknown_key_names_the_nearest(key, message):
    with pytest.raises(InputError, match=message):
        config_of("li2021", **{key: 1})


def test_merging_by_hand():
    assert merged({"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"c": [2]}, "d": None}) == {
        "a": {"b": 1, "c": [2]},
        "d": None,
    }


# --- resolution ---------------------------------------------------------------------------------------------------


def test_phantom_sizes_come_after_the_method_and_nothing_is_prepared():
    config = config_of("li2021")
    assert config["systems"]["unet3d_attention"]["overlays"] == [
        "methods/li2021",
        "methods/li2021_attention",
        "phantom",
    ]
    assert config["systems"]["unet3d"]["inference_overlays"] == ["methods/li2021", "phantom"]
    assert "preparation" not in config
    assert config["phantom"]["source"] == 24
    assert "phantom" in config["report"]["note"]


def test_bounds_are_the_named_system_on_other_images():
    systems = config_of("li2021")["systems"]
    assert list(systems)[:2] == ["source-only", "oracle"]
    for name, images, section in (
        ("source-only", "source", "source_training"),
        ("oracle", "oracle", "target_training"),
    ):
        assert systems[name] == systems["unet2d5_gamma20"] | {"images": images, "section": section}


def test_own_data_has_the_paper_s_folds_and_no_bounds_without_truth(scans):
    config = config_of("shin2021", "paper", data=scans[0])
    assert config["systems"] == {
        "nnunet_3d": {
            "bundle": "segmentation-3d",
            "images": "cyclegan_segmenter",
            "overlays": [],
            "inference_overlays": [],
            "folds": [0, 1, 2, 3, 4],
            "section": "source_training",
        }
    }
    assert "note" not in config["report"]
    assert Pipeline(config).truth is None


def test_without_labels_of_the_target_training_scans_there_is_no_oracle(scans, tmp_path):
    data, truth = scans
    content = json.loads(truth.read_text())
    for item in content["target_training"]:
        del item["label"]
    other = truth.parent / "validation_only.json"
    other.write_text(json.dumps(content))
    assert "source-only" in (systems := config_of("shin2021", "paper", data=data, truth=other)["systems"])
    assert "oracle" not in systems


def test_a_phantom_s_folder_brings_its_truth(tmp_path):
    (tmp_path / "truth").mkdir()
    config = config_of("li2021", data=tmp_path)
    assert (config["data_root"], config["truth"]) == (str(tmp_path), str(tmp_path / "truth"))
    assert "phantom" not in config
    assert "note" in config["report"]


def test_changes_act_before_the_preset_s_folds_and_sizes():
    config = config_of("kang2022", **{"folds": [1, 2], "systems::nnunet_2d::train::max_epochs": 3})
    assert config["systems"]["nnunet_2d"]["folds"] == [1, 2]
    assert config["systems"]["nnunet_2d"]["train"]["max_epochs"] == 3
    assert config["systems"]["oracle"]["folds"] == [1]


@pytest.mark.parametrize("name", recipe_names(RECIPES))
@pytest.mark.parametrize("preset", PRESETS)
def test_every_override_of_every_recipe_is_known_to_its_bundle(name, preset, scans):
    # MONAI adds a misspelt key without a word.
    data = None if preset == "phantom" else scans[0]
    if name == "han2022" and data:
        data = with_parcellation(data)
    assert config_of(name, preset, data=data)["systems"]  # which refuses unknown ones


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("translators::cyclegan::train::max_epoch", "translator 'cyclegan': train: .* mean 'max_epochs'"),
        ("translators::cyclegan::translate::feature", "translator 'cyclegan': translate: .* 'features'"),
        ("systems::nnunet_2d::train::leaning_rate", "system 'nnunet_2d': train: .* 'learning_rate'"),
        ("systems::nnunet_2d::infer::mirror_axis", "system 'nnunet_2d': infer: .* 'mirror_axes'"),
        ("self_training::ensemble::train::round", "self-training 'ensemble': train: .* 'rounds'"),
        ("self_training::ensemble::train::train_options::max_epoch", "train_options: .* 'max_epochs'"),
        ("self_training::ensemble::infer::infer_options::mirror_axis", "infer_options: .* 'mirror_axes'"),
        ("self_training::ensemble::train::members::nnunet_3d::fold", "unknown key .* a member has .*folds"),
        ("self_training::ensemble::train::members::nnunet_3d::train::max_epoch", "nnunet_3d: .* 'max_epochs'"),
    ],
)
def test_a_misspelt_value_is_told_with_the_nearest_name(key, message):
    with pytest.raises(InputError, match=message):
        config_of("kang2022", **{key: 3})


def test_values_that_bundles_know():
    place = "self_training::ensemble::train"
    values = {
        f"{place}::train_options::max_epochs": 3,
        f"{place}::train_options::ema_momentum": 0.02,
        f"{place}::train_options::least_patch": [32, 32, 8],  # of phantom.yaml
        f"{place}::members::nnunet_3d::train::max_epochs": 4,
        f"{place}::members::nnunet_3d::folds": [0, 1],
        "systems::nnunet_3d::train::train::dataloader::pin_memory": True,  # MONAI's DataLoader hands it on
    }
    config = config_of("kang2022", **values)
    entry = config["self_training"]["ensemble"]["train"]
    assert entry["train_options::max_epochs"] == 3  # and not a dict in place of the bundle's train_options
    assert entry["members::nnunet_3d::train::max_epochs"] == 4
    assert config["systems"]["nnunet_3d"]["train"]["train::dataloader::pin_memory"] is True


@pytest.mark.parametrize("name", ["demo", "translators", "segmenters", "koos", "self_training"])
def test_recipes_of_the_snakefile_s_own_form(name):
    pipeline = Pipeline(yaml.safe_load((RECIPES / f"{name}.yaml").read_text()))
    check_values(pipeline)
    next(iter(pipeline.translators.values()))["train"] = {"max_epoch": 3}
    with pytest.raises(InputError, match="did you mean 'max_epochs'"):
        check_values(pipeline)


def test_bounds_of_their_own():
    bounds = {"bundle": "segmentation-2.5d", "overlays": ["methods/li2021_gamma15"]}
    systems = config_of("li2021", bounds=bounds)["systems"]
    assert list(systems)[:2] == ["source-only", "oracle"]
    assert systems["oracle"]["overlays"] == systems["oracle"]["inference_overlays"] == [*bounds["overlays"], "phantom"]
    assert (systems["source-only"]["images"], systems["oracle"]["section"]) == ("source", "target_training")
    with pytest.raises(InputError, match="system 'bounds' has no 'overlays'"):
        config_of("li2021", bounds={"bundle": "segmentation-2.5d"})


def test_painting_is_not_for_the_bounds():
    for name in ("best", "shin2021", "kang2022", "han2022"):
        systems = config_of(name)["systems"]
        assert all("methods/target_painting" not in systems[key]["overlays"] for key in ("source-only", "oracle"))
        assert any("methods/target_painting" in entry["overlays"] for entry in systems.values())


def with_parcellation(data):
    content = json.loads(data.read_text())
    for item in content["source_training"]:
        item["parcellation"] = item["label"]
    path = data.parent / "parcellated.json"
    path.write_text(json.dumps(content))
    return path


# --- faults -------------------------------------------------------------------------------------------------------


KOOS = {"encoder": "msf_net", "masks": "both"}


def faulty(folder, path, value):
    recipe = yaml.safe_load(write_recipe(folder).read_text())
    part = recipe
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    file = folder / "faulty.yaml"
    file.write_text(yaml.safe_dump(recipe))
    return file


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("systems", "flat", "images"), "cyclgan", "system 'flat': images names 'cyclgan', which is no translator"),
        (("systems", "flat", "overlays"), ["methods/none"], "system 'flat': .*has no config 'methods/none'"),
        (("systems", "flat", "bundle"), "segmentation-4d", "system 'flat': bundle 'segmentation-4d' not found"),
        (("systems", "flat", "trian"), {}, "system 'flat' has an unknown entry 'trian'"),
        (("systems", "flat", "folds"), 5, "folds is 5: give a list"),
        (("systems", "../x"), {}, "'../x' can't name a folder"),
        (("fusions", "both", "members"), ["flat", "none"], "fusion 'both' names 'none'"),
        (("fusions", "both", "rule"), "average", "there is no rule 'average'"),
        (("fusions", "flat"), {"members": ["deep"], "rule": "mean"}, "'flat' is taken twice"),
        (("self_training", "rounds", "translated"), ["none"], "self-training 'rounds': translated names 'none'"),
        (("self_training", "rounds", "teachers"), {"a": "none"}, "teachers names 'none'"),
        (("preparation", "recipe"), "li2020", "preparation 'li2020' is unknown"),
        (("views",), {"all": ["msf_net", "none"]}, "view 'all' names 'none'"),
        (("koos",), {"encoder": "none", "masks": "both"}, "koos: encoder names 'none'"),
        (("koos",), {"encoder": "msf_net"}, "koos has no 'masks'"),
        (("koos",), {}, "koos has no 'encoder'"),
        (("koos",), {**KOOS, "combination": "full", "geometry": {}}, "koos: combination names 'full'"),
        (("koos",), {**KOOS, "combination": "msf_koos_net"}, "koos: combination needs the baseline"),
        (("koos",), {**KOOS, "final": "geometry"}, "koos: final names 'geometry', which is no method"),
        (("koos",), {**KOOS, "seeds": 3}, "koos: seeds of 'msf_koos_net' is 3: give a list"),
        (("koos",), {**KOOS, "folds": [0]}, r"koos: folds is \[0\]: give their number"),
        (("koos",), {**KOOS, "networks": {"a": {"overlay": []}}}, "koos: network 'a' has an unknown entry 'overlay'"),
        (("koos",), {**KOOS, "networks": {"a": {"pretrained_by": "b"}}}, "koos: a names 'b', which is no network"),
        (("koos",), {**KOOS, "overlays": ["methods/none"]}, "koos: network 'msf_koos_net': .*no config 'methods/none'"),
        (("self_training", "rounds", "views"), 2, "self-training 'rounds': views is 2: give a list"),
        (("final",), "none", "final names 'none'"),
        (("bounds",), "none", "bounds names 'none'"),
        (("sytems",), {}, "unknown entry 'sytems'"),
        (("translators",), {}, "the recipe has no 'translators'"),
    ],
)
def test_faults_of_a_recipe_are_one_line(path, value, message, scans, tmp_path):
    file = faulty(tmp_path, path, value)
    with pytest.raises(InputError, match=message) as error:
        resolve(load_recipe(str(file), RECIPES), "paper", PRESETS, tmp_path / "run", scans[0])
    assert "\n" not in str(error.value)


def test_a_recipe_on_top_of_another(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nbase: li2021\ntranslators: {cyclegan: {train: {max_epochs: 7}}}\nfinal: unet3d\n")
    mine, base = load_recipe(str(file), RECIPES), load_recipe("li2021", RECIPES)
    assert mine["translators"] == {"cyclegan": {**base["translators"]["cyclegan"], "train": {"max_epochs": 7}}}
    assert (mine["name"], mine["final"]) == ("mine", "unet3d")
    assert {key: mine[key] for key in ("systems", "fusions", "presets")} == {
        key: base[key] for key in ("systems", "fusions", "presets")
    }
    file.write_text("name: mine\nbase: li2021_self_training\nfinal: unet3d\n")
    with pytest.raises(InputError, match="has one itself"):
        load_recipe(str(file), RECIPES)


def test_unknown_recipe_preset_and_stage(scans):
    with pytest.raises(InputError, match="li2020 is no recipe: take one of best, chen2023, han2022"):
        load_recipe("li2020", RECIPES)
    with pytest.raises(InputError, match="has no 'presets'"):
        load_recipe(str(RECIPES / "demo.yaml"), RECIPES)
    with pytest.raises(InputError, match="no preset 'papers': give one of phantom, paper"):
        config_of("li2021", "papers")
    with pytest.raises(InputError, match="li2021 has no stage 'self-train': give --until one of data, "):
        targets_until(config_of("li2021"), "self-train")


def test_data_that_is_missing_or_does_not_suffice(scans, tmp_path):
    data, _ = scans
    with pytest.raises(InputError, match="preset paper needs --data"):
        config_of("li2021", "paper")
    with pytest.raises(InputError, match=r"none\.json is missing: correct --data"):
        config_of("li2021", "paper", data=tmp_path / "none.json")
    with pytest.raises(InputError, match="case_0 of source_training has no 'parcellation', which"):
        config_of("han2022", "paper", data=data)
    with pytest.raises(InputError, match="give a data list, as --data is one"):
        config_of("li2021", "paper", data=data, truth=tmp_path)
    with pytest.raises(InputError, match="has no label of case_20: add it, or leave --truth out"):
        config_of("li2021", "paper", data=data, truth=data)
    content = json.loads(data.read_text())
    del content["target_validation"]
    short = data.parent / "short.json"
    short.write_text(json.dumps(content))
    with pytest.raises(InputError, match="has no items in target_validation"):
        config_of("li2021", "paper", data=short)
