"""Unpaired slices: shares, positions, crops, repeatability."""

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from crossmoda.errors import InputError
from crossmoda.transforms import UnpairedSlices, ValidationSlices, unpaired_slices_or_exit
from crossmoda.transforms.unpaired_slices import SliceStack, load_stacks

SIZE = (12, 10, 20)


def prepare(item):
    """A volume whose voxels tell their case and slice: case + z / 100."""
    volume = torch.full((1, *SIZE), float(item["case"])) + torch.arange(SIZE[2]) / 100
    item["image"] = volume
    if item.get("labelled"):
        item["label"] = torch.zeros(1, *SIZE)
        item["label"][:, 6:, :, 8:10] = 2  # slices 8 and 9
    return item


SOURCES = [{"case": 1, "labelled": True}, {"case": 2, "labelled": True}]
TARGETS = [{"case": 5}, {"case": 6}, {"case": 7}]


def dataset(**options):
    return UnpairedSlices(SOURCES, TARGETS, prepare, progress=False, **options)


def case_and_slice(image):
    value = round(float(image[0, 0, 0]), 2)
    return int(value), round((value - int(value)) * 100)


def test_items_have_the_batch_entries_and_the_epoch_its_length():
    item = dataset()[0]
    assert {name: (tuple(value.shape), value.dtype) for name, value in item.items()} == {
        "source": ((1, 12, 10), torch.float32),
        "source_label": ((1, 12, 10), torch.uint8),
        "target": ((1, 12, 10), torch.float32),
    }
    assert type(item["source"]) is torch.Tensor
    assert len(dataset()) == 40
    assert len(dataset(length=7)) == 7


def test_label_goes_along_with_its_slice_also_when_flipped():
    data = dataset(flip_prob=0.5, length=200)
    for i in range(200):
        item = data[i]
        _, z = case_and_slice(item["source"])
        assert bool(item["source_label"].any()) == (z in (8, 9))


def test_flip_mirrors_left_and_right():
    item = dataset(flip_prob=1.0, structure_share=1.0)[0]
    assert item["source_label"][:, :6].all()
    assert not item["source_label"][:, 6:].any()


def test_structure_share_is_kept():
    data = dataset(structure_share=0.6, seed=1)
    share = np.mean([bool(data[0]["source_label"].any()) for _ in range(1000)])
    # Even draws bring 2 of 20 slices on top: 0.6 + 0.4 / 10.
    assert share == pytest.approx(0.64, abs=0.05)


def test_position_tolerance_binds_the_target_slice():
    data = dataset(position_tolerance=0.1)
    for _ in range(200):
        item = data[0]
        assert abs(case_and_slice(item["source"])[1] - case_and_slice(item["target"])[1]) <= 2


def test_without_it_all_slices_and_cases_come():
    data = dataset()
    drawn = [data[0] for _ in range(1000)]
    assert len({case_and_slice(item["source"]) for item in drawn}) == 40
    assert len({case_and_slice(item["target"]) for item in drawn}) == 60


def test_crops_have_their_size():
    item = dataset(crop_size=(8, 6))[0]
    assert all(value.shape == (1, 8, 6) for value in item.values())


def test_seed_of_the_transform_repeats_the_draws():
    data = dataset()
    first = []
    for _ in range(2):
        data.transform.set_random_state(seed=4)
        first.append([case_and_slice(data[0]["target"]) for _ in range(20)])
    assert first[0] == first[1]


def test_structure_share_without_labels_is_refused():
    with pytest.raises(ValueError, match="no source slice holds a label"):
        UnpairedSlices(TARGETS, TARGETS, prepare, progress=False, structure_share=0.5)


def test_unequal_sizes_are_refused():
    def uneven(item):
        return prepare(item) if item["case"] != 6 else {"image": torch.zeros(1, 4, 4, 4)}

    with pytest.raises(ValueError, match="one in-plane size"):
        UnpairedSlices(SOURCES, TARGETS, uneven, progress=False)


@pytest.mark.parametrize("kind", [UnpairedSlices, ValidationSlices])
def test_target_labels_are_not_read(kind):
    def prepare_watching(item):
        assert item["case"] < 5 or "label" not in item
        return prepare(item)

    kind(SOURCES, [{**item, "label": "truth.nii.gz"} for item in TARGETS], prepare_watching, progress=False)


def test_validation_slices_are_fixed_half_with_structures_at_equal_heights():
    data = ValidationSlices(SOURCES, TARGETS, prepare, slices_per_case=8, progress=False)
    assert len(data) == 16
    assert sum(bool(item["source_label"].any()) for item in data) >= 8
    for item in data:
        assert case_and_slice(item["source"])[1] == case_and_slice(item["target"])[1]
    assert torch.equal(data[3]["target"], data[3]["target"])


def test_a_crop_beyond_the_slices_is_refused():
    with pytest.raises(ValueError, match=r"crop_size \[12, 11\] is larger than the slices \[12, 10\]: lower it"):
        dataset(crop_size=[12, 11])


def with_parcellation(item):
    """The parcellation says its slice, times 10 in the right half."""
    item = prepare(item)
    if "parcellation" in item:
        item["parcellation"] = torch.arange(SIZE[2]).float().expand(1, *SIZE).clone()
        item["parcellation"][:, 6:] *= 10
    return item


PARCELLATED = [{**item, "image": f"{item['case']}.nii.gz", "parcellation": "p.nii.gz"} for item in SOURCES]
AT_SITES = [{**item, "image": f"{item['case']}.nii.gz", "site": site} for item, site in zip(SOURCES, "ab", strict=True)]
TARGETS_AT_SITES = [{**item, "image": "t.nii.gz", "site": "b"} for item in TARGETS]


@pytest.mark.parametrize("kind", [UnpairedSlices, ValidationSlices])
def test_adjacent_slices_are_channels_and_none_beyond_the_ends(kind):
    data = kind(SOURCES, TARGETS, prepare, slices=3, progress=False)
    for _ in range(20):
        for item in data:
            for name in ("source", "target"):
                image = item[name]
                assert image.shape == (3, *SIZE[:2])
                case, z = case_and_slice(image[1:2])
                below, above = image[0, 0, 0], image[2, 0, 0]
                assert float(below) == pytest.approx(case + (z - 1) / 100 if z > 0 else -1, abs=0.004)
                assert float(above) == pytest.approx(case + (z + 1) / 100 if z < SIZE[2] - 1 else -1, abs=0.004)
            assert item["source_label"].shape == (1, *SIZE[:2])
            assert bool(item["source_label"].any()) == (case_and_slice(item["source"][1:2])[1] in (8, 9))


def test_more_slices_than_the_volume_has_are_filled_up_on_both_sides():
    stack = load_stacks(SOURCES, prepare, "volumes", progress=False)[0]
    stack = SliceStack(stack.image[:2], stack.label[:2], stack.structures)
    assert stack.adjacent(1, 5)[:, 0, 0].tolist() == pytest.approx([-1, 1, 1.01, -1, -1], abs=0.001)


def test_an_even_number_of_slices_is_refused():
    with pytest.raises(InputError, match="slices is 2: give an odd number"):
        dataset(slices=2)


@pytest.mark.parametrize("kind", [UnpairedSlices, ValidationSlices])
def test_parcellation_is_that_of_the_middle_slice_and_flips_with_it(kind):
    options = {"flip_prob": 1.0, "crop_size": (12, 6)} if kind is UnpairedSlices else {}
    data = kind(PARCELLATED, TARGETS, with_parcellation, parcellation_classes=191, slices=3, progress=False, **options)
    for item in data:
        z = case_and_slice(item["source"][1:2])[1]
        parcellation = item["source_parcellation"]
        assert parcellation.dtype == torch.uint8
        first, last = (10 * z, z) if kind is UnpairedSlices else (z, 10 * z)
        assert (parcellation[:, :6] == first).all()
        assert (parcellation[:, 6:] == last).all()
        assert "target_parcellation" not in item


def test_a_missing_parcellation_is_named_before_anything_is_prepared():
    items = [PARCELLATED[0], {**SOURCES[1], "image": "/data/b_ceT1.nii.gz"}]
    with pytest.raises(InputError, match=r"^/data/b_ceT1.nii.gz has no parcellation .*lambda_parcellation: 0"):
        UnpairedSlices(items, TARGETS, lambda item: pytest.fail("prepared"), parcellation_classes=9, progress=False)


def test_more_classes_than_announced_are_refused():
    with pytest.raises(InputError, match=r"p.nii.gz has classes from 0 to 190, but parcellation_classes is 12"):
        UnpairedSlices(PARCELLATED, TARGETS, with_parcellation, parcellation_classes=12, progress=False)


def test_classes_beyond_a_byte_are_refused():
    def doubled(item):
        prepared = with_parcellation(item)
        return prepared | {"parcellation": 2 * prepared["parcellation"]} if "parcellation" in prepared else prepared

    with pytest.raises(InputError, match=r"has classes from 0 to 380, .* at most 256"):
        UnpairedSlices(PARCELLATED, TARGETS, doubled, parcellation_classes=400, progress=False)


@pytest.mark.parametrize("kind", [UnpairedSlices, ValidationSlices])
def test_sites_are_places_in_the_list_of_sites(kind):
    data = kind(AT_SITES, TARGETS_AT_SITES, prepare, sites=["b", "a"], progress=False)
    for item in data:
        assert item["source_site"].dtype == torch.int64
        assert int(item["source_site"]) == (1 if case_and_slice(item["source"])[0] == 1 else 0)
        assert int(item["target_site"]) == 0
    assert default_collate([data[0], data[1]])["target_site"].shape == (2,)


def test_a_volume_of_another_site_is_named():
    with pytest.raises(InputError, match=r"2.nii.gz is of site 'b', but sites are a, c: "):
        UnpairedSlices(AT_SITES, TARGETS_AT_SITES, prepare, sites=["a", "c"], progress=False)


def test_a_config_ends_with_one_line(capsys):
    with pytest.raises(SystemExit):
        unpaired_slices_or_exit(SOURCES, TARGETS, prepare, progress=False, crop_size=[99, 99])
    assert capsys.readouterr().err.startswith("error: crop_size [99, 99] is larger")
