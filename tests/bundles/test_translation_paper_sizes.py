"""A step of training and a scan of inference at the papers' own sizes; the batch is one slice for the memory's sake."""

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import run
from translation_bundle import CONFIGS, METHODS, config, paths, write_data

from crossmoda.engines import read_history

COMMON = {"device": "$torch.device('cpu')", "progress": False}


@pytest.fixture(scope="module")
def data_list(tmp_path_factory):
    """Small source and target scans, which the papers' spacings bring to 195 pixels, padded to theirs."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_step_and_a_scan(method, data_list, tmp_path):
    overlay = str(CONFIGS / "methods" / f"{method}.yaml")
    width, height, _ = config("train.yaml", f"methods/{method}.yaml")["roi_size"]
    options = COMMON | {"roi_size": [width, height, 3]}
    training = {"batch_size": 1, "epoch_slices": 1, "max_epochs": 1, "val_fraction": 0.4, "val_slices_per_case": 2}
    run(config_file=[str(CONFIGS / "train.yaml"), overlay], **options, **training, **paths(data_list, tmp_path))
    (row,) = read_history(tmp_path / "out" / "history.csv")
    losses = {name: value for name, value in row.items() if name.startswith("loss_")}
    assert len(losses) >= 3
    assert np.isfinite(list(losses.values())).all()
    scan = data_list.replace("datalist.json", "s0_ceT1.nii.gz")
    run(
        config_file=[str(CONFIGS / "inference.yaml"), overlay],
        input=scan,
        output_dir=str(tmp_path / "volumes"),
        ckpt_dir=str(tmp_path / "models"),
        slice_batch_size=1,
        **options,
    )
    raw, result = nib.load(scan), nib.load(tmp_path / "volumes" / "s0_hrT2.nii.gz")
    assert result.shape == raw.shape
    assert np.array_equal(result.affine, raw.affine)
