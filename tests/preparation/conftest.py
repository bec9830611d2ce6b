"""A data list of small raw scans for each test of this folder."""

from pathlib import Path

import pytest
from raw_scans import write_list


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """The data list's path; its folder is the test's own."""
    folder = tmp_path / "raw"
    folder.mkdir()
    return write_list(folder)
