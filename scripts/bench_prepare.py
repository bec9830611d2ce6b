"""Measure what preparing one scan costs, step by step, and what other libraries take for the same steps.

Each recipe runs in its own process with one thread, on a full-size phantom ceT1 scan (512x512x120 voxels) with its
label, or on the scan given. CPU seconds are the process's; the machine's other work does not count.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

Row = tuple[str, float, float]  # step, CPU seconds, wall seconds


def timed(name: str, function: Callable[[], Any]) -> tuple[Any, Row]:
    """Run a function and measure it."""
    cpu, wall = time.process_time(), time.monotonic()
    result = function()
    return result, (name, time.process_time() - cpu, time.monotonic() - wall)


def run_recipe(
    name: str, modality: str, files: dict[str, str], references: dict[str, str], folder: str
) -> tuple[list[Row], float, tuple]:
    """All steps of one recipe on one scan; also the peak of memory in GiB, and the prepared shape."""
    from crossmoda.data import save_nifti
    from crossmoda.preparation import Recipe
    from crossmoda.preparation.workers import single_thread

    single_thread()
    recipe = Recipe.load(name)
    if recipe.lacks == "roi":
        recipe = recipe.changed({"roi_start": [128, 167, 2]})
    if recipe.lacks == "references":
        for key in ("reference_ceT1", "reference_hrT2", "atlas"):
            kind = "ceT1" if key.endswith("ceT1") else "hrT2"
            part = "matched_reference" if key == "atlas" else "reference"
            found = recipe.pipeline(kind, keys=["image"], part=part)({"image": references[kind]})["image"]
            path = Path(folder) / f"{key}.nii.gz"
            save_nifti(found[0].numpy(), found.affine.numpy(), path)
            recipe = recipe.changed({key: str(path)})
    pipeline = recipe.pipeline(modality, "source_training", list(files)).flatten()
    # What a process does once: ITK loads its parts when they are first used, references and template are read.
    rows = [timed("first scan of a process (not in the sum)", lambda: pipeline(dict(files)))[1]]
    data: dict[str, Any] = dict(files)
    for transform in pipeline.transforms:
        data, row = timed(type(transform).__name__, lambda transform=transform, data=data: transform(data))
        rows.append(row)
    out = Path(folder) / "prepared.nii.gz"
    rows.append(timed("writing", lambda: save_nifti(data["image"][0].numpy(), data["image"].affine.numpy(), out))[1])
    return rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, tuple(data["image"].shape[1:])


def run_alternatives(files: dict[str, str]) -> list[Row]:
    """The same steps by other libraries, on the same scan, with one thread."""
    import itk
    import nibabel as nib
    from scipy import ndimage
    from skimage.exposure import match_histograms
    from skimage.restoration import denoise_nl_means

    from crossmoda.preparation.workers import single_thread
    from crossmoda.registration import load_template, register

    single_thread()
    image = nib.as_closest_canonical(nib.load(files["image"]))
    volume, affine = image.get_fdata(dtype=np.float32), image.affine
    noise = float(np.std(volume[:20, :20]))
    template = load_template()

    def rigid(backend: str) -> Any:
        fixed = (template.values, template.affine, template.mask)
        return register(volume, affine, *fixed, kind="rigid", metric="mi", backend=backend)

    def itk_matching(values: np.ndarray) -> Any:
        matching = itk.HistogramMatchingImageFilter[itk.Image[itk.F, 3], itk.Image[itk.F, 3]].New()
        view = np.ascontiguousarray(values)  # ITK looks at this memory: the name keeps it
        matching.SetSourceImage(itk.image_view_from_array(view))
        matching.SetReferenceImage(itk.image_view_from_array(view))
        matching.SetNumberOfHistogramLevels(1024)
        matching.SetNumberOfMatchPoints(7)
        matching.SetThresholdAtMeanIntensity(True)
        matching.Update()
        return itk.array_from_image(matching.GetOutput())

    rigid("itk")  # loads ITK
    itk_matching(volume[:4])
    rows = [
        timed(
            "non-local means: scikit-image, fast mode",
            lambda: denoise_nl_means(volume, patch_size=3, patch_distance=1, h=noise, fast_mode=True),
        )[1],
        timed("rigid registration: itk v4", lambda: rigid("itk"))[1],
        timed("histogram matching: ITK", lambda: itk_matching(volume))[1],
        timed("histogram matching: scikit-image", lambda: match_histograms(volume, volume[::-1]))[1],
        timed("B-spline to 1 mm slices: scipy", lambda: ndimage.zoom(volume, (1, 1, 1.5), order=3, mode="mirror"))[1],
    ]
    try:
        import SimpleITK as sitk  # noqa: N813 - its usual name
    except ImportError:
        print("SimpleITK is not installed: its times are left out (pip install SimpleITK)")
        return rows
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    scan = sitk.GetImageFromArray(volume)
    small = sitk.Shrink(scan, [4, 4, 4])
    mask = sitk.OtsuThreshold(small, 0, 1, 200)

    def bias() -> None:
        correction = sitk.N4BiasFieldCorrectionImageFilter()
        correction.SetMaximumNumberOfIterations([50] * 4)
        correction.Execute(small, mask)
        scan / sitk.Exp(correction.GetLogBiasFieldAsImage(scan))

    rows.append(timed("N4, shrink 4, 4 x 50: SimpleITK", bias)[1])
    rows.append(timed("histogram matching: SimpleITK", lambda: sitk.HistogramMatching(scan, scan[::-1], 1024, 7))[1])
    return rows


def phantom_scan(folder: Path, modality: str) -> dict[str, str]:
    """A full-size phantom scan of London with its label."""
    from crossmoda.data import save_nifti
    from crossmoda.phantom.case import CaseSimulator

    simulator = CaseSimulator("ldn", modality, "full")
    simulator.set_random_state(3)
    case = simulator(3)
    files = {"image": str(folder / f"{modality}.nii.gz"), "label": str(folder / f"{modality}_label.nii.gz")}
    save_nifti(case.image, case.affine, files["image"])
    save_nifti(np.array([0, 1, 1, 2], np.uint8)[case.parts], case.affine, files["label"])
    return files


def print_table(title: str, rows: list[Row]) -> None:
    """One line a step."""
    print(f"\n{title}\n\n| step | CPU s | wall s |\n|---|---:|---:|")
    for name, cpu, wall in rows:
        print(f"| {name} | {cpu:.1f} | {wall:.1f} |")
    print(f"| all | {total(rows):.1f} | {sum(row[2] for row in rows[1:]):.1f} |", flush=True)


def total(rows: list[Row]) -> float:
    """CPU seconds a case, without what a process does once."""
    return sum(row[1] for row in rows[1:])


def main() -> None:
    """Measure and print."""
    from crossmoda.preparation import recipe_names

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=recipe_names(), metavar="NAME")
    parser.add_argument("--scan", metavar="FILE", help="a scan of your own (default: a phantom's)")
    parser.add_argument("--modality", choices=("ceT1", "hrT2"), default="ceT1")
    parser.add_argument("--no_alternatives", action="store_true", help="leave other libraries out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scans = {modality: phantom_scan(Path(folder), modality) for modality in ("ceT1", "hrT2")}
        references = {modality: scan["image"] for modality, scan in scans.items()}
        files = {"image": arguments.scan} if arguments.scan else scans[arguments.modality]
        summary = []
        for name in arguments.recipes:
            rows, memory, shape = _in_own_process(run_recipe, name, arguments.modality, files, references, folder)
            print_table(f"{name}: {shape}, peak {memory:.1f} GiB", rows)
            summary.append(f"| {name} | {total(rows):.1f} | {memory:.1f} | {shape} |")
        if not arguments.no_alternatives:
            rows = _in_own_process(run_alternatives, files)
            print("\nother libraries, same scan\n\n| step | CPU s | wall s |\n|---|---:|---:|")
            print("\n".join(f"| {name} | {cpu:.1f} | {wall:.1f} |" for name, cpu, wall in rows))
        print("\n| recipe | CPU s a case | peak GiB | prepared |\n|---|---:|---:|---|\n" + "\n".join(summary))


def _in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """A new process for each, so that peaks of memory are its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


if __name__ == "__main__":
    main()
