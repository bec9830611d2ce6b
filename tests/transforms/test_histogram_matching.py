import pickle

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from crossmoda.errors import InputError
from crossmoda.transforms import HistogramMatchingd

AFFINE = np.diag([-0.4, -0.4, 1.5, 1.0])


def volumes():
    """Two scans with air, of other shapes and scales."""
    random = np.random.RandomState(0)
    source = np.where(random.rand(30, 28, 20) < 0.4, random.rand(30, 28, 20) * 20, random.gamma(4, 100, (30, 28, 20)))
    reference = np.where(random.rand(20, 31, 25) < 0.5, random.rand(20, 31, 25) * 9, random.gamma(3, 40, (20, 31, 25)))
    return source.astype(np.float32), reference.astype(np.float32)


def scan(volume, name="case_hrT2.nii.gz"):
    image = MetaTensor(volume[None], affine=AFFINE, meta={"filename_or_obj": name})
    image.applied_operations = [{"class": "Spacing"}]
    return image


def landmarks(volume, points, at_mean=True):
    """The lower end, the quantiles of what is above it, the maximum."""
    low = volume.mean() if at_mean else volume.min()
    inner = np.quantile(volume[volume >= low], np.arange(1, points + 1) / (points + 1))
    return np.array([volume.min(), low, *inner, volume.max()])


@pytest.mark.parametrize(("points", "at_mean"), [(7, True), (3, True), (7, False), (1, False)])
def test_agrees_with_quantiles_in_numpy(points, at_mean):
    source, reference = volumes()
    y = HistogramMatchingd("image", reference, points=points, threshold_at_mean=at_mean)({"image": scan(source)})
    table = [landmarks(v, points, at_mean) for v in (source, reference)]
    if not at_mean:
        table = [t[1:] for t in table]
    expected = np.interp(source, *table)
    bin_width = np.ptp(reference) / 1024
    assert np.abs(y["image"].numpy()[0] - expected).max() < 4 * bin_width
    assert np.abs(y["image"].numpy()[0] - expected).mean() < bin_width


@pytest.mark.parametrize(("points", "at_mean"), [(7, True), (7, False)])
def test_equals_the_filter_of_itk(points, at_mean):
    source, reference = volumes()
    y = HistogramMatchingd("image", reference, points=points, threshold_at_mean=at_mean)({"image": scan(source)})
    image_type = itk.Image[itk.F, 3]
    matching = itk.HistogramMatchingImageFilter[image_type, image_type].New()
    matching.SetSourceImage(itk.image_view_from_array(source))
    matching.SetReferenceImage(itk.image_view_from_array(reference))
    matching.SetNumberOfHistogramLevels(1024)
    matching.SetNumberOfMatchPoints(points)
    matching.SetThresholdAtMeanIntensity(at_mean)
    matching.Update()
    assert np.allclose(y["image"].numpy()[0], itk.array_from_image(matching.GetOutput()), atol=1e-3, rtol=1e-5)


def test_quantiles_become_those_of_the_reference():
    source, reference = volumes()
    y = HistogramMatchingd("image", reference)({"image": scan(source)})["image"].numpy()[0]
    threshold = source.mean()
    found = np.quantile(y[source >= threshold], np.arange(1, 8) / 8)
    assert np.allclose(found, landmarks(reference, 7)[2:-1], atol=2 * np.ptp(reference) / 1024)
    assert y.max() == pytest.approx(reference.max())
    assert y.min() == pytest.approx(reference.min(), abs=1e-4)
    order = np.argsort(source, axis=None)
    assert (np.diff(y.flat[order]) >= -1e-3).all()  # brighter stays brighter


def test_matching_with_itself_changes_next_to_nothing():
    source, _ = volumes()
    y = HistogramMatchingd("image", source)({"image": scan(source)})["image"].numpy()[0]
    assert np.allclose(y, source, atol=np.ptp(source) / 1024)


def test_scale_of_the_scanner_does_not_matter():
    source, reference = volumes()
    match = HistogramMatchingd("image", reference)
    one, other = (match({"image": scan(v)})["image"] for v in (source, 3 * source))
    assert torch.allclose(one.as_tensor(), other.as_tensor(), atol=0.05)


def test_reference_from_a_file_and_in_a_worker(tmp_path):
    source, reference = volumes()
    path = tmp_path / "ldn_106_hrT2.nii.gz"
    nib.save(nib.Nifti1Image(reference, AFFINE), path)
    expected = HistogramMatchingd("image", reference)({"image": scan(source)})["image"]
    for given in (path, str(path)):
        match = HistogramMatchingd("image", given)
        assert torch.equal(match({"image": scan(source)})["image"], expected)
        again = pickle.loads(pickle.dumps(match))
        assert torch.equal(again({"image": scan(source)})["image"], expected)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float64])
def test_types_metadata_and_channels(dtype):
    source, reference = volumes()
    x = scan((source / 10).astype(dtype))
    y = HistogramMatchingd("image", reference.astype(np.int16))({"image": x})["image"]
    assert y.dtype == torch.float32
    assert y.shape == x.shape
    assert torch.equal(y.affine, x.affine)
    assert y.applied_operations == [{"class": "Spacing"}]
    assert y.meta["filename_or_obj"] == "case_hrT2.nii.gz"
    two = HistogramMatchingd("image", reference)({"image": torch.as_tensor(np.stack([source, 2 * source]))})["image"]
    assert torch.allclose(two[0], two[1], atol=0.05)


def test_unusable_images_and_references_are_refused(tmp_path):
    source, reference = volumes()
    with pytest.raises(InputError, match=r"case_hrT2.nii.gz: every voxel is 3"):
        HistogramMatchingd("image", reference)({"image": scan(source * 0 + 3)})
    with pytest.raises(InputError, match="every voxel is 3"):
        HistogramMatchingd("image", reference * 0 + 3)({"image": scan(source)})
    with pytest.raises(InputError, match=r"absent.nii.gz: no such file"):
        HistogramMatchingd("image", tmp_path / "absent.nii.gz")({"image": scan(source)})


def test_missing_keys():
    assert HistogramMatchingd("image", np.arange(9.0), allow_missing_keys=True)({"a": 1}) == {"a": 1}


def test_order_in_memory_does_not_matter() -> None:
    R = np.random.RandomState(0)
    volume, reference = R.rand(20, 21, 22).astype(np.float32) * 900, R.rand(15, 15, 15).astype(np.float32) ** 2 * 400
    match = HistogramMatchingd("image", reference)
    expected = match({"image": volume[None]})["image"]
    assert np.array_equal(match({"image": np.asfortranarray(volume)[None]})["image"], expected)
    assert 0 <= expected.min() < expected.max() <= 400
