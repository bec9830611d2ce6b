"""Asks nnunetv2's own planner for the plans of a few fingerprints; needs an environment with nnunetv2, not crossmoda.

    python tests/planning/record_nnunet_plans.py > tests/planning/data/nnunet_plans.json

Axes are nnU-Net's: (z, y, x) as read, and in the plans the axis with the largest spacing first.
"""

import json
import os
import sys
import tempfile
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace


def rows(*groups):
    """Spacings and shapes of so many scans each: (count, spacing, shape)."""
    spacings = [list(spacing) for count, spacing, _ in groups for _ in range(count)]
    shapes = [list(shape) for count, _, shape in groups for _ in range(count)]
    return {"spacings": spacings, "shapes": shapes}


LDN_T1, ETZ_T1 = (1.5, 0.41015625, 0.41015625), (1.5, 0.80000001, 0.80000001)
LDN_T2, ETZ_T2 = (1.5, 0.5, 0.5), (1.0, 0.40178573, 0.40178573)
CASES = {
    "isotropic": rows((5, (1.0, 1.0, 1.0), (160, 192, 180)), (4, (0.9, 1.0, 1.1), (150, 200, 170))),
    "isotropic_large": rows((30, (0.7, 0.7, 0.7), (512, 512, 512))),
    "strongly_anisotropic": rows((6, (10.0, 1.5, 1.5), (10, 256, 216)), (4, (5.0, 1.4, 1.4), (14, 240, 240))),
    "coarse_slices_become_finer": rows((8, (5.0, 1.6, 1.6), (12, 200, 210)), (2, (1.0, 1.6, 1.6), (60, 200, 210))),
    "one_thick_slice_group": rows((3, (0.4, 3.0, 0.4), (400, 30, 380)), (3, (0.5, 3.5, 0.5), (380, 28, 400))),
    "two_coarse_axes": rows((7, (0.24, 1.25, 1.25), (300, 100, 110))),
    "tiny": rows((4, (2.0, 2.0, 2.0), (18, 20, 16)), (1, (2.0, 2.5, 2.0), (19, 21, 24))),
    "flat": rows((6, (3.0, 1.0, 1.0), (9, 128, 128))),
    "crossmoda_2021_cet1": rows((79, LDN_T1, (120, 512, 512)), (26, (1.0, *LDN_T1[1:]), (160, 512, 512))),
    "crossmoda_2022_cet1": rows((105, LDN_T1, (120, 512, 512)), (105, ETZ_T1, (100, 256, 256))),
    "crossmoda_2022_hrt2": rows((105, LDN_T2, (80, 448, 448)), (105, ETZ_T2, (80, 512, 512))),
    "crossmoda_2021_cropped": rows((105, LDN_T1, (80, 512, 400))),
    "phantom_demo": rows((12, (1.5, 0.82, 0.82), (40, 240, 240)), (12, (1.5, 0.8, 0.8), (40, 240, 240))),
    "phantom_cropped": rows((24, (1.5, 0.82, 0.82), (32, 96, 128)), (1, (1.0, 0.8, 0.8), (48, 97, 129))),
}
SETTINGS = {
    "isotropic": [{}, {"memory_gb": 24}, {"memory_gb": 2, "classes": 5}],
    "crossmoda_2021_cet1": [{}, {"memory_gb": 4}],
    "crossmoda_2021_cropped": [{}, {"relative_size": 0.6}],
    "phantom_cropped": [{}, {"memory_gb": 1}],
}


def plan_with_nnunet(fingerprint, memory_gb=8, classes=3, relative_size=1.0):
    """What nnU-Net's planner and trainer make of a fingerprint."""
    # torchvision is only there for a network that is not planned; a CUDA build of it fails on a CPU at import.
    sys.modules.setdefault("torchvision._meta_registrations", ModuleType("torchvision._meta_registrations"))
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            os.environ[name] = f"{folder}/{name}"
            Path(folder, name, "Dataset001_Test").mkdir(parents=True)
        from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

        dataset = {
            "channel_names": {"0": "T2"},
            "labels": {"background": 0, **{f"class{index}": index for index in range(1, classes)}},
            "numTraining": len(fingerprint["spacings"]),
            "file_ending": ".nii.gz",
            "overwrite_image_reader_writer": "SimpleITKIO",
            "dataset": {"case": {"images": ["case_0000.nii.gz"], "label": "case.nii.gz"}},
        }
        content = {
            "spacings": fingerprint["spacings"],
            "shapes_after_crop": fingerprint["shapes"],
            "median_relative_size_after_cropping": relative_size,
            "foreground_intensity_properties_per_channel": {},
        }
        Path(folder, "nnUNet_raw/Dataset001_Test/dataset.json").write_text(json.dumps(dataset))
        path = Path(folder, "nnUNet_preprocessed/Dataset001_Test/dataset_fingerprint.json")
        path.write_text(json.dumps(content))
        plans = ExperimentPlanner("Dataset001_Test", gpu_memory_target_in_gb=memory_gb).plan_experiment()
    result = {"transpose": plans["transpose_forward"]}
    for name in ("3d_fullres", "2d"):
        result[name] = shorten(plans["configurations"][name])
        trainer = SimpleNamespace(
            configuration_manager=SimpleNamespace(patch_size=result[name]["patch_size"]),
            print_to_log_file=lambda *words: None,
        )
        rotation, dummy_2d, _, mirror = nnUNetTrainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size(
            trainer
        )
        result[name] |= {"rotation": rotation[1], "dummy_2d": bool(dummy_2d), "mirror_axes": list(mirror)}
    return result


def shorten(configuration):
    """The entries of one configuration that we plan too."""
    network = configuration["architecture"]["arch_kwargs"]
    return {
        "spacing": [float(edge) for edge in configuration["spacing"]],
        "median_shape": [float(edge) for edge in configuration["median_image_size_in_voxels"]],
        "patch_size": [int(edge) for edge in configuration["patch_size"]],
        "batch_size": int(configuration["batch_size"]),
        "strides": [list(map(int, strides)) for strides in network["strides"]],
        "kernel_sizes": [list(map(int, kernel)) for kernel in network["kernel_sizes"]],
        "features": list(map(int, network["features_per_stage"])),
        "use_mask_for_norm": bool(configuration["use_mask_for_norm"][0]),
        "normalization": configuration["normalization_schemes"][0],
        "batch_dice": bool(configuration["batch_dice"]),
    }


def main():
    """Record all cases as JSON on stdout."""
    records = []
    for name, fingerprint in CASES.items():
        for setting in SETTINGS.get(name, [{}]):
            plans = plan_with_nnunet(fingerprint, **setting)
            records.append({"name": name, "setting": setting, "plans": plans})
    lines = ",\n  ".join(json.dumps(record) for record in records)
    print(f'{{"nnunetv2": "{version("nnunetv2")}", "records": [\n  {lines}\n]}}')


if __name__ == "__main__":
    main()
