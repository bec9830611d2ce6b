"""What the tests of the translation bundle share: tiny data, tiny settings, the commands."""

from pathlib import Path

import nibabel as nib
import numpy as np
from monai.bundle import ConfigParser, run

from crossmoda.data import write_datalist

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "bundles" / "translation" / "configs"
METHODS = ("cyclegan", "cyclegan_segmenter", "msf_net", "site_cyclegan", "cut", "cut_original", "fastcut", "qs_attn")
METADATA = {"msf_net": "methods/msf_net_metadata.json"}  # of networks with other channels
CHANNELS = {"msf_net": 3}
TINY = {
    "features": 4,
    "n_blocks": 1,
    "levels": 2,
    "nce_layers": ["padded", "down1", "down2", "block1"],
    "nce_features": 8,
    "n_patches": 16,
    "roi_size": [32, 32, -1],
    "crop_size": [24, 32],
    "pixdim": [2.0, 2.0, 3.0],
    "epoch_slices": 4,
    "batch_size": 2,
    "max_epochs": 2,
    "val_fraction": 0.4,
    "fake_segmentation_after": 1,
    "picture_interval": 1,
    "device": "$torch.device('cpu')",
    "progress": False,
}
INFERENCE_KEYS = ("features", "n_blocks", "levels", "roi_size", "pixdim", "device", "progress")
TINY_INFERENCE = {key: TINY[key] for key in INFERENCE_KEYS}


def files(workflow, method):
    return [
        str(CONFIGS / f"{workflow}.yaml"),
        str(CONFIGS / "methods" / f"{method}.yaml"),
        str(CONFIGS / "phantom.yaml"),
    ]


def metadata_file(method):
    return str(CONFIGS / METADATA.get(method, "metadata.json"))


def oblique_lps(spacing):
    """Affine of an LPS scan turned by 10 degrees about x."""
    angle = np.deg2rad(10)
    turn = [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    affine = np.eye(4)
    affine[:3, :3] = np.array(turn) @ np.diag([-1, -1, 1]) @ np.diag(spacing)
    affine[:3, 3] = (40, 35, -15)
    return affine


def save(array, affine, path):
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, code=1)
    nib.save(image, path)


def train(method, data_list, folder, **options):
    run(config_file=files("train", method), **{**TINY, **paths(data_list, folder), **options})


def paths(data_list, folder):
    return {"data_list": data_list, "output_dir": str(folder / "out"), "ckpt_dir": str(folder / "models")}


def config(*names):
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / name) for name in names])
    return parser


def write_data(folder):
    """Heads with a tumour and a cochlea, bright and dark on ceT1, grey and bright on hrT2; int16."""
    random = np.random.RandomState(0)
    shape = (40, 36, 10)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    head = x**2 + y**2 < 0.9
    tumour = (x - 0.3) ** 2 + y**2 + z**2 < 0.04
    cochlea = (x + 0.3) ** 2 + y**2 + z**2 < 0.03
    affine = oblique_lps((2.0, 2.0, 3.0))
    sections = {"source_training": [], "target_training": []}
    for i in range(3):
        noise = random.rand(*shape) * 30
        source = {
            "case": f"s{i}",
            "site": "ldn",
            "image": f"{folder}/s{i}_ceT1.nii.gz",
            "label": f"{folder}/s{i}_Label.nii.gz",
            "parcellation": f"{folder}/s{i}_GIFoutput.nii.gz",
        }
        target = {"case": f"t{i}", "site": "ldn", "image": f"{folder}/t{i}_hrT2.nii.gz"}
        save((head * 300 + tumour * 500 - cochlea * 200 + noise).astype(np.int16), affine, source["image"])
        save(np.where(tumour, 1, np.where(cochlea, 2, 0)).astype(np.uint8), affine, source["label"])
        save((head * (1 + (x > 0) + 2 * (y > 0))).astype(np.int16), affine, source["parcellation"])
        save((head * 300 + cochlea * 600 + noise).astype(np.int16), affine, target["image"])
        sections["source_training"].append(source)
        sections["target_training"].append(target)
    write_datalist(sections, folder / "datalist.json")
    return str(folder / "datalist.json")
