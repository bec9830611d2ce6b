"""The order of the tests, an MLflow server, and DICOM files that ITK writes slice by slice with known geometry."""

import numpy as np
import pytest
from mlflow_server import running_server


def pytest_collection_modifyitems(items):
    """Whole chains first, then other files with slow tests.

    A file stays in one process, and a long one that comes last leaves the other process idle.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (not item.nodeid.startswith("tests/system/"), item.path not in slow))


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory):
    """Address of a server for all tests of this process: to start it takes seconds."""
    with running_server(tmp_path_factory.mktemp("mlflow_server")) as address:
        yield address


def _write_slice(path, pixels, position, affine_lps, tags):
    """One file; `pixels` of shape (columns, rows), `position` in LPS mm."""
    import itk  # here, because most tests do without it

    spacing = np.linalg.norm(affine_lps[:3, :3], axis=0)
    directions = affine_lps[:3, :3] / spacing
    image = itk.image_from_array(np.ascontiguousarray(pixels.T[None]), is_vector=False)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(position.tolist())
    image.SetDirection(itk.matrix_from_array(directions))
    plane = "\\".join(f"{cosine:.9f}" for cosine in [*directions[:, 0], *directions[:, 1]])
    place = "\\".join(f"{number:.6f}" for number in position)
    meta = image.GetMetaDataDictionary()
    for key, value in {"0008|0060": "MR", "0020|0032": place, "0020|0037": plane, **tags}.items():
        meta[key] = value
    io = itk.GDCMImageIO.New()
    io.SetKeepOriginalUID(True)
    path.parent.mkdir(parents=True, exist_ok=True)
    itk.ImageFileWriter[type(image)].New(Input=image, FileName=str(path), ImageIO=io).Update()


def _write_series(folder, array, affine, uid="1.2.3.4", description="T2 ax", **tags):
    """`array` of shape (X, Y, Z) as one file a slice, whose names don't sort by place; returns the files by place."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    count = array.shape[2]
    paths = [folder / f"IM{(3 * k) % (count + 1 if count % 3 == 0 else count):04d}.dcm" for k in range(count)]
    for k, path in enumerate(paths):
        own = {"0020|000e": uid, "0020|000d": "1.2.3", "0008|0018": f"{uid}.{k + 1}", "0008|103e": description}
        _write_slice(path, array[:, :, k], lps[:3, 3] + k * lps[:3, 2], lps, {**own, **tags})
    assert len(set(paths)) == count
    return paths


@pytest.fixture(scope="session")
def write_slice():
    return _write_slice


@pytest.fixture(scope="session")
def write_series():
    return _write_series
