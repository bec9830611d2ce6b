"""What holds for every config file of every bundle."""

from __future__ import annotations

from pathlib import Path

import pytest
from monai.bundle import ConfigParser

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
CONFIGS = [path.relative_to(BUNDLES) for path in sorted(BUNDLES.glob("*/configs/**/*.yaml"))]


def strings(value):
    """All texts in a nest of dicts and lists, keys included."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("name", CONFIGS, ids=str)
def test_no_hash_in_any_value(name):
    # MONAI replaces '#' by '::' in every string.
    assert not [text for text in strings(ConfigParser.load_config_file(BUNDLES / name)) if "#" in text]


def test_every_bundle_is_looked_at():
    assert {name.parts[0] for name in CONFIGS} == {path.name for path in BUNDLES.iterdir() if path.is_dir()}
