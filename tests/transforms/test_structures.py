import nibabel
import numpy as np
import torch
from monai.data import MetaTensor

from crossmoda.transforms import AddStructuresd


def test_structures_fill_the_background_alone(tmp_path):
    parcels = np.array([1, 2, 3, 4, 7, 209, 1, 1], dtype=np.int16).reshape(2, 2, 2)
    nibabel.save(nibabel.Nifti1Image(parcels, np.eye(4)), tmp_path / "parcels.nii.gz")
    label = torch.tensor([0, 0, 0, 0, 0, 0, 1, 2], dtype=torch.uint8).reshape(1, 2, 2, 2)
    add = AddStructuresd("label", "parcellation", {3: [1, 2], 4: [4, 209]})
    result = add({"label": MetaTensor(label), "parcellation": str(tmp_path / "parcels.nii.gz"), "case": "a"})
    assert result["label"].flatten().tolist() == [3, 3, 0, 4, 0, 4, 1, 2]
    assert result["label"].dtype == torch.uint8
    assert set(result) == {"label", "case"}
    assert label.flatten().tolist() == [0, 0, 0, 0, 0, 0, 1, 2]
