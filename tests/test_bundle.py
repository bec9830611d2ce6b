"""Configs merged into one are what MONAI makes of the files."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from monai.bundle import ConfigParser, ConfigWorkflow

from crossmoda.bundle import config_path, flatten_config, flatten_metadata
from crossmoda.errors import InputError

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
ROOT = BUNDLES / "segmentation-2.5d"


@pytest.fixture
def configs(tmp_path):
    (tmp_path / "train.yaml").write_text("imports: [a]\nnet: {width: 1, depth: 2}\nlist: [{x: 1}, {x: 2}]\nrate: 0.1\n")
    (tmp_path / "method.yaml").write_text('+imports: [b]\nnet::width: 8\nlist::1::x: "$@rate"\n+net: {norm: batch}\n')
    (tmp_path / "sizes.json").write_text('{"rate": 0.5, "new": "@net"}')
    return [tmp_path / name for name in ("train.yaml", "method.yaml", "sizes.json")]


def test_later_files_replace_extend_and_edit(configs):
    assert flatten_config(configs, {"net::depth": 9, "threads": 1}) == {
        "imports": ["a", "b"],
        "net": {"width": 8, "depth": 9, "norm": "batch"},
        "list": [{"x": 1}, {"x": "$@rate"}],  # expressions stay as they are
        "rate": 0.5,
        "new": "@net",
        "threads": 1,
    }


def assert_same(flat, merged):
    """Equal, but for dicts with numbers as keys, which a JSON file has as expressions."""
    if isinstance(merged, dict) and not all(isinstance(key, str) for key in merged):
        assert ast.literal_eval(flat.removeprefix("$")) == merged
    elif isinstance(merged, dict | list):
        assert len(flat) == len(merged)
        for key in merged if isinstance(merged, dict) else range(len(merged)):
            assert_same(flat[key], merged[key])
    else:
        assert flat == merged


def test_keys_that_are_numbers_stay_numbers(tmp_path):
    (tmp_path / "a.yaml").write_text("map: {1: [1, 2], 2: null}\nsize: '$len(@map)'\n")
    flat = flatten_config([tmp_path / "a.yaml"])
    parser = ConfigParser(json.loads(json.dumps(flat)))
    assert parser.get_parsed_content("map") == {1: [1, 2], 2: None}
    assert parser.get_parsed_content("size") == 2


METHODS = [(path.parts[-4], path.stem) for path in sorted(BUNDLES.glob("*/configs/methods/*.yaml"))]
WORKFLOWS = [
    (bundle, method, workflow)
    for bundle, method in METHODS
    for workflow in ("train", "inference")
    if (BUNDLES / bundle / "configs" / f"{workflow}.yaml").is_file()
]


@pytest.mark.parametrize(("bundle", "method", "workflow"), WORKFLOWS, ids=lambda name: name)
def test_every_method_flattens_as_monai_merges_it(bundle, method, workflow, tmp_path):
    files = [config_path(BUNDLES / bundle, name) for name in (workflow, method, "phantom")]
    values = {"threads": 3, "output_dir": "out"}
    flat = tmp_path / "configs" / "flat.json"
    flat.parent.mkdir()
    flat.write_text(json.dumps(flatten_config(files, values)))
    metadata = str(files[0].with_name("metadata.json"))
    merged = ConfigWorkflow([str(file) for file in files], meta_file=metadata, logging_file=False, **values)
    alone = ConfigWorkflow(str(flat), meta_file=metadata, logging_file=False)
    assert_same(alone.parser.get(), merged.parser.get())


def test_metadata_of_a_method():
    plain = flatten_metadata(ROOT, ["li2021", "phantom"])
    assert plain == json.loads((ROOT / "configs/metadata.json").read_text())
    three = flatten_metadata(ROOT, ["three_class", "phantom"])
    assert list(three["network_data_format"]["outputs"]["pred"]["channel_def"]) == ["0", "1", "2", "3"]


def test_configs_are_found_by_path_and_methods_by_name():
    assert config_path(ROOT, "phantom") == ROOT / "configs/phantom.yaml"
    assert config_path(ROOT, "phantom.yaml") == ROOT / "configs/phantom.yaml"
    assert config_path(ROOT, "li2021") == config_path(ROOT, "methods/li2021") == ROOT / "configs/methods/li2021.yaml"


@pytest.mark.parametrize("name", ["li2020", "../../translation/configs/phantom", "/etc/passwd", ""])
def test_unknown_configs_and_ways_out_are_refused(name):
    with pytest.raises(InputError, match=r"has no config .*methods/li2021"):
        config_path(ROOT, name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", "is not a config"),
        ("- a", "is not a config"),
        ("net::stem::width: 1", "changes a place .*stem"),
        ("+rate: [1]", "is not a config: .*must be dict or list"),
        ("map: {1: '@net'}", "JSON cannot hold"),
        ("day: 2026-11-22", "JSON cannot hold"),
    ],
)
def test_faulty_overlays_are_named(configs, text, words):
    fault = configs[0].with_name("fault.yaml")
    fault.write_text(text)
    with pytest.raises(InputError, match=rf"^[^\n]*fault.yaml[^\n]*{words}[^\n]*$"):
        flatten_config([*configs, fault])


def test_missing_file_and_override_without_parent(configs):
    with pytest.raises(InputError, match=r"absent\.yaml is missing"):
        flatten_config([configs[0], configs[0].with_name("absent.yaml")])
    with pytest.raises(InputError, match="'nets::width'"):
        flatten_config(configs, {"nets::width": 1})
