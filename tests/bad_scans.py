"""Scans and labels with one fault each, and the words by which a user is told of it."""

import gzip
import os
import shutil
import struct
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (14, 12, 8)
AFFINE = np.diag([1, 1, 1.5, 1.0])
FIELDS = {"dim": 40, "datatype": 70, "pixdim": 76, "scl_slope": 112, "srow_x": 280}  # bytes of the header


def voxels(dtype=np.int16):
    return np.random.RandomState(0).randint(0, 999, SHAPE).astype(dtype)


def classes(**changes):
    label = np.zeros(SHAPE, np.float32)
    label[4:6, 4:8, 3:6], label[9:11, 5:7, 4:6] = 1, 2
    label[0, 0, 0] = changes.get("odd", 0)
    return label


def save(path, array=None, affine=AFFINE):
    nib.save(nib.Nifti1Image(voxels() if array is None else array, affine), path)


def write_cut(path, end):
    save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(end * len(content))])


def write_flipped(path):
    save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)


def write_patched(path, field, layout, values):
    """A file with some bytes of its header overwritten."""
    save(path)
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<" + layout, content, FIELDS[field], *values)
    path.write_bytes(gzip.compress(bytes(content)))


def write_garbage(path):
    save(path)
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(np.random.RandomState(1).bytes(352) + content[352:]))


def write_fuzzed(path, seed):
    random = np.random.RandomState(seed)
    save(path)
    content = bytearray(gzip.decompress(path.read_bytes()))
    for place in random.randint(0, 352, 6):
        content[place] = random.randint(256)
    path.write_bytes(gzip.compress(bytes(content)))


def write_with(value, path):
    array = voxels(np.float32)
    array[3, 3, 3] = value
    save(path, array)


def write_sheared(path):
    affine = AFFINE.copy()
    affine[0, 2] = 0.4
    save(path, affine=affine)


def write_forbidden(path):
    save(path)
    path.chmod(0)


def write_plain(path):
    save(path.with_name("plain.nii"))
    path.with_name("plain.nii").rename(path)


COLOUR = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
# How the image of a target case is made, and words of the fault's line
IMAGES = {
    "missing": (lambda path: None, "is missing: correct the path"),
    "folder": (Path.mkdir, "holds no DICOM file"),
    "text": (lambda path: path.write_text("case,site\n"), "no NIfTI file: convert it"),
    "empty": (Path.touch, "is damaged or truncated: copy it again (it is empty)"),
    "cut_header": (partial(write_cut, end=0.05), "is damaged or truncated: copy it again"),
    "cut_middle": (partial(write_cut, end=0.5), "is damaged or truncated: copy it again"),
    "cut_tail": (partial(write_cut, end=0.998), "is damaged or truncated: copy it again"),
    "flipped": (write_flipped, "copy it again"),
    "garbage": (write_garbage, "copy it again"),
    "plain": (write_plain, "is not compressed although its name ends in .gz: rename it"),
    "giant": (partial(write_patched, field="dim", layout="4h", values=(3, 30000, 30000, 30000)), "damaged header"),
    "fewer": (partial(write_patched, field="dim", layout="4h", values=(3, 14, 12, 4)), "as many voxels as its header"),
    "more": (partial(write_patched, field="dim", layout="4h", values=(3, 14, 12, 9)), "as many voxels as its header"),
    "dtype": (partial(write_patched, field="datatype", layout="h", values=(77,)), "damaged header"),
    "negative_spacing": (partial(write_patched, field="pixdim", layout="2f", values=(1, -1)), "a spacing of -1 x 1"),
    "zero_spacing": (partial(write_patched, field="pixdim", layout="2f", values=(1, 0)), "a spacing of 0 x 1 x 1.5"),
    "nan_spacing": (partial(write_patched, field="pixdim", layout="2f", values=(1, np.nan)), "a spacing of nan x 1"),
    "metres": (partial(save, affine=np.diag([1e-3, 1e-3, 1.5e-3, 1])), "plausible: correct its unit or spacing"),
    "huge_spacing": (partial(save, affine=np.diag([100, 100, 150, 1])), "plausible: correct its unit or spacing"),
    "nan_affine": (partial(write_patched, field="srow_x", layout="f", values=(np.nan,)), "has no usable affine"),
    "inf_affine": (partial(write_patched, field="srow_x", layout="f", values=(np.inf,)), "has no usable affine"),
    "flat_affine": (
        partial(write_patched, field="srow_x", layout="12f", values=(1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0)),
        "has no usable affine",
    ),
    "sheared": (write_sheared, "degrees: resample it to an orthogonal grid"),
    "scaling": (partial(write_patched, field="scl_slope", layout="2f", values=(1e38, 0)), "correct the scaling"),
    "nan": (partial(write_with, np.nan), "has 1 voxels that are NaN or infinite"),
    "inf": (partial(write_with, -np.inf), "has 1 voxels that are NaN or infinite"),
    "constant": (partial(save, array=np.full(SHAPE, 5, np.int16)), "has no signal"),
    "two_d": (partial(save, array=voxels()[:, :, 0]), "a 3D volume is needed: join the slices"),
    "one_slice": (partial(save, array=voxels()[:, :, :1]), "a 3D volume is needed: join the slices"),
    "four_d": (partial(save, array=np.stack([voxels()] * 2, -1)), "a 3D volume is needed: split the series"),
    "zero_size": (partial(save, array=voxels()[:, :0]), "a 3D volume is needed: it is empty"),
    "colour": (partial(save, array=COLOUR), "is a colour image (RGB)"),
    "complex": (partial(save, array=voxels(np.complex64)), "has complex voxels: give the magnitude"),
    "pipe": (os.mkfifo, "is not a regular file"),
    "forbidden": (write_forbidden, "may not be read (permission denied): change its permissions"),
}
# The label of a source case
LABELS = {
    "label_missing": (lambda path: None, "is missing: correct the path"),
    "label_shape": (partial(save, array=classes()[:-1]), "lies on another grid"),
    "label_shifted": (partial(save, array=classes(), affine=AFFINE + np.eye(4, k=3)), "lies on another grid"),
    "label_unknown": (partial(save, array=classes(odd=7)), "has label values 7 but only 0, 1, 2 are known"),
    "label_fraction": (partial(save, array=classes(odd=1.5)), "has label values 1.5 but only"),
    "label_negative": (partial(save, array=classes(odd=-1)), "has label values -1 but only"),
    "label_nan": (partial(save, array=classes(odd=np.nan)), "has 1 voxels that are NaN"),
    "label_empty": (partial(save, array=0 * classes()), "is an empty label (background alone)"),
    "label_cut": (partial(write_cut, end=0.6), "is damaged or truncated: copy it again"),
}
NAMES = {
    "../escaped": "can't name a file",
    "a/b": "can't name a file",
    "a\nb": "can't name a file",
    "-rf": "can't name",
}
SERIES = {
    "dicom_gap": "slices missing or unevenly spaced",
    "dicom_two": "holds 2 DICOM series",
    "dicom_cut": "is damaged, or a DICOM object without an image",
    "dicom_none": "holds no DICOM file",
}


def target(folder, name, make=save):
    path = folder / f"{name}_hrT2.nii.gz"
    make(path)
    return {"case": name, "site": "ldn", "image": path.name}


def source(folder, name, make=partial(save, array=classes())):  # noqa: B008 - not changed
    save(folder / f"{name}_ceT1.nii.gz")
    make(folder / f"{name}_Label.nii.gz")
    return {"case": name, "site": "ldn", "image": f"{name}_ceT1.nii.gz", "label": f"{name}_Label.nii.gz"}


def series(folder, name, write_series):
    paths = write_series(folder / name, voxels(), AFFINE)
    if name == "dicom_gap":
        paths[3].unlink()
    elif name == "dicom_cut":
        paths[3].write_bytes(paths[3].read_bytes()[:-20])
    elif name == "dicom_none":
        shutil.rmtree(folder / name)
        (folder / name).mkdir()
    elif name == "dicom_two":
        for path in write_series(folder / "other", voxels(), AFFINE, uid="1.2.9"):
            path.rename(folder / name / f"other_{path.name}")
    return {"case": name, "image": name}
