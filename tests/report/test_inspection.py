import csv
import importlib.util
import json
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from crossmoda.data import save_nifti, write_datalist
from crossmoda.errors import InputError
from crossmoda.report import inspect, write_inspection
from crossmoda.report.inspection_flags import RULES, find_flags, robust_z
from crossmoda.report.inspection_measures import (
    COLUMNS,
    cochlea_sides,
    fingerprint,
    intensities,
    measure,
    signal_to_noise,
    structure,
    to_ras,
)
from crossmoda.report.inspection_pictures import thumbnail
from crossmoda.report.pictures import Volume

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "inspect_data.py"
SHAPE, SPACING = (96, 48, 24), (0.8, 0.8, 1.5)
LPS = np.diag([-0.8, -0.8, 1.5, 1.0])
VOXEL_ML = 0.8 * 0.8 * 1.5 / 1000
IDENTITY = {0: 0, 1: 1, 2: 2}


def scan_and_label(seed, shape=SHAPE):
    """A bright head with noise; a VS on one side of some 0.2 mL; a cochlea of 75 voxels on either, 48 mm apart."""
    random = np.random.RandomState(seed)
    x, y, z = np.indices(shape)
    scan = 500 * (((x - 48) / 46) ** 2 + ((y - 24) / 22) ** 2 < 1) + random.normal(100, 20, shape)
    label = np.zeros(shape, np.uint8)
    middle = shape[2] // 2
    size = random.uniform(5.5, 7.5)
    label[(x - 66) ** 2 + (y - 24) ** 2 + (1.9 * (z - middle)) ** 2 < size**2] = 1
    for left in (16, 76):
        label[left : left + 5, 10:15, middle - 1 : middle + 2] = 2
    return np.abs(scan * random.uniform(0.8, 1.25)).astype(np.int16), label


def add(folder, sections, section, case, scan, label=None, affine=LPS, site="one", **more):
    """Write a scan, and a label if there is one, and enter them in the sections."""
    item = {"case": case, "site": site, "image": str(folder / section / f"{case}.nii"), **more}
    save_nifti(scan, affine, item["image"])
    if label is not None:
        item["label"] = str(folder / section / f"{case}_Label.nii")
        save_nifti(label, affine, item["label"])
    sections.setdefault(section, []).append(item)


def clean_sections(folder, source=12, target=11):
    sections = {}
    for number in range(source):
        add(folder, sections, "source_training", f"source_{number}", *scan_and_label(number), koos=1 + number % 4)
    for number in range(target):
        add(folder, sections, "target_training", f"target_{number}", scan_and_label(100 + number)[0])
    add(folder, sections, "target_validation", "validation_0", scan_and_label(200)[0])
    return sections


def plant(folder, sections):
    """Add a scan for each rule; returns the rules that each has to break."""
    scan, label = scan_and_label(300)
    expected = {}

    def source(case, rule, scan=None, label=None, affine=LPS):
        own = scan_and_label(300 + len(expected))
        scan, label = own[0] if scan is None else scan, own[1] if label is None else label
        add(folder, sections, "source_training", case, scan, label, affine)
        expected[case] = rule

    one_side = np.where(np.arange(96)[:, None, None] < 48, np.minimum(label, 1), label).astype(np.uint8)
    source("one_cochlea", "no_cochlea", label=one_side)
    source("no_vs", "no_vs", label=np.where(label == 1, 0, label).astype(np.uint8))
    tiny = np.where(label == 1, 0, label).astype(np.uint8)
    tiny[66:69, 24:27, 12:14] = 1  # 18 voxels, 0.017 mL
    source("tiny_vs", "vs_volume", label=tiny)
    thick = label.copy()
    thick[10:25, 5:20, 11:14] = 2
    source("thick_cochlea", "cochlea_volume", label=thick)
    parts = label.copy()
    parts[30:33, 30:33, 5:8] = 1
    source("two_parts", "parts", label=parts)
    border = label.copy()
    border[66, 24, :] = 1
    source("at_border", "border", label=border)
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("x", 25, degrees=True).as_matrix()
    source("oblique", "oblique", affine=turn @ LPS)
    source("coarse", "in_plane", affine=np.diag([-1.0, -1.0, 1.5, 1]))
    source("gaps", "slice_distance", affine=np.diag([-0.8, -0.8, 3.9, 1]))
    source("oblong", "pixels", affine=np.diag([-0.8, -0.7, 1.5, 1]))
    source("thin", "anisotropic", affine=np.diag([-0.4, -0.4, 2.2, 1]))
    source("short", "few_slices", *scan_and_label(350, (96, 48, 18)))
    source("clipped", "saturated", scan=np.minimum(scan, np.percentile(scan, 99)).astype(np.int16))
    empty = scan_and_label(351)[0]
    empty[:, :, :4] = 0
    source("empty", "empty", scan=empty)
    source("loud", "unusual", scan=(scan_and_label(352)[0] * 10).astype(np.int16))
    sagittal = np.array([[0, 0, 1.5, 0], [0.8, 0, 0, 0], [0, 0.8, 0, 0], [0, 0, 0, 1]])
    source("sagittal", "orientation", affine=sagittal)
    source("flipped", "orientation", affine=np.diag([0.8, -0.8, 1.5, 1]))
    copy = nib.load(sections["source_training"][3]["image"])
    twin = np.asanyarray(copy.dataobj)[::-1].astype(np.float32)
    source("twin", "duplicate", twin, scan_and_label(3)[1][::-1], copy.affine @ np.diag([-1, 1, 1, 1]))
    expected["source_3"] = "duplicate"
    add(folder, sections, "target_validation", "stolen", scan_and_label(101)[0])
    expected |= {"stolen": "leak", "target_1": "leak"}
    add(folder, sections, "target_validation", "target_2", scan_and_label(400)[0])
    expected["target_2"] = "leak"
    return expected


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clean")
    write_datalist(clean_sections(folder), folder / "list.json")
    return folder / "list.json", inspect(folder / "list.json", progress=False)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    sections = clean_sections(folder)
    expected = plant(folder, sections)
    write_datalist(sections, folder / "list.json")
    return inspect(folder / "list.json", progress=False), expected


class Page(HTMLParser):
    """Collects ids, links, picture sources, and tags that load something."""

    def __init__(self):
        super().__init__()
        self.ids, self.links, self.images, self.loaded, self.open = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs["href"]] if "href" in attrs else []
        self.images += [attrs["src"]] if tag == "img" else []
        self.loaded += [tag] if tag in ("script", "link", "iframe") else []
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def written(inspection, data_list, folder):
    write_inspection(inspection, data_list, folder / "inspection.html")
    page = Page()
    page.feed((folder / "inspection.html").read_text(encoding="utf-8"))
    assert page.open == []
    return page, json.loads((folder / "inspection.json").read_text(encoding="utf-8"))


def test_nothing_is_flagged_in_a_clean_set(clean):
    inspection = clean[1]
    assert len(inspection.records) == 24
    assert [flag for flags in inspection.flags for flag in flags] == []
    assert inspection.notes == []
    assert inspection.faults == []


def test_each_planted_fault_is_flagged(planted):
    inspection, expected = planted
    assert not inspection.faults
    rules_of = {}
    for record, flags in zip(inspection.records, inspection.flags, strict=True):
        rules_of.setdefault(record["case"], []).extend(flag.rule for flag in flags)
    assert {case: rule in rules_of[case] for case, rule in expected.items()} == dict.fromkeys(expected, True)
    assert {case for case, rules in rules_of.items() if rules} == set(expected)
    assert set(expected.values()) == set(RULES)


def test_reasons_are_words_with_numbers(planted):
    inspection, _ = planted
    reasons = {record["case"]: record["reasons"] for record in inspection.records if record["outlier"]}
    assert "no cochlea on the left" not in reasons["one_cochlea"]
    assert "no cochlea on the right" in reasons["one_cochlea"]  # low x of an LPS file is the patient's right
    assert "the same voxels as source_3 in source_training" in reasons["twin"]
    assert "the same voxels as target_1 in target_training" in reasons["stolen"]
    assert "VS of 0.0173 mL is outside 0.04-9.8 mL" in reasons["tiny_vs"]
    assert "axes are 25 degrees off" in reasons["oblique"]
    assert "only 18 axial slices" in reasons["short"]
    assert "4 of 24 axial slices" in reasons["empty"]
    assert re.search(r"99 % intensity .* median of one .* \(z = \+", reasons["loud"])


def test_geometry_and_volumes_of_a_known_scan(tmp_path):
    scan, label = scan_and_label(5)
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("z", 10, degrees=True).as_matrix()
    # stored feet-head first, then to the front, then to the left
    permutation = np.array([[0, 0, -0.8, 30], [0, 0.8, 0, -20], [1.5, 0, 0, 5], [0, 0, 0, 1]])
    sections = {}
    arrays = [np.transpose(array, (2, 1, 0)) for array in (scan, label)]
    add(tmp_path, sections, "source_training", "a", *arrays, affine=turn @ permutation)
    record, volume, classes = measure(sections["source_training"][0], IDENTITY)
    assert record["orientation"] == "SAL"
    assert record["oblique_degrees"] == pytest.approx(10)
    assert [record[f"size_{axis}"] for axis in "xyz"] == [96, 48, 24]
    assert [record[f"spacing_{axis}"] for axis in "xyz"] == pytest.approx([0.8, 0.8, 1.5])
    assert [record[f"fov_{axis}"] for axis in "xyz"] == pytest.approx([76.8, 38.4, 36])
    assert record["dtype"] == "int16"
    assert volume.array.shape == classes.array.shape == SHAPE
    assert volume.spacing == pytest.approx(SPACING)
    assert record["vs_ml"] == pytest.approx((label == 1).sum() * VOXEL_ML)
    assert record["cochlea_ml"] == pytest.approx(150 * VOXEL_ML)
    assert (record["vs_parts"], record["cochlea_parts"]) == (1, 2)
    assert record["cochlea_right_ml"] == record["cochlea_left_ml"] == pytest.approx(75 * VOXEL_ML)
    centre = np.argwhere(label == 1).mean(axis=0) - (np.array(SHAPE) - 1) / 2
    assert record["vs_from_centre_mm"] == pytest.approx(np.linalg.norm(centre * SPACING))
    assert [record[f"q{q}"] for q in (0, 1, 50, 99, 100)] == pytest.approx(np.percentile(scan, [0, 1, 50, 99, 100]))


def test_intensities_of_a_known_array():
    array = np.arange(1000, dtype=np.int16).reshape(10, 10, 10)
    array[:, :, 3] = 7
    array[:, :, 4] = 0
    array[0, 0, :5] = 2000
    measured = intensities(array)
    assert measured["zero_share"] == pytest.approx((array == 0).mean())
    assert measured["saturated_share"] == pytest.approx(5 / 1000)
    assert measured["empty_slices"] == 0  # each of the two has one voxel of 2000
    array[0, 0, 3:5] = (7, 0)
    assert intensities(array)["empty_slices"] == 2


def test_signal_to_noise_is_that_of_the_noise_added():
    random = np.random.RandomState(0)
    head = np.zeros((80, 80, 12))
    head[20:60, 20:60] = 400
    for noise in (10, 40):
        assert signal_to_noise(head + random.normal(0, noise, head.shape)) == pytest.approx(400 / noise, rel=0.08)
    assert signal_to_noise(head) is None
    assert signal_to_noise(np.zeros((5, 5, 5))) is None


def test_structure_by_hand():
    mask = np.zeros((20, 20, 20), bool)
    affine = np.diag([-1.0, 2.0, 3.0, 1.0])
    assert structure(mask, affine) == {"ml": 0.0, "parts": 0, "at_border": False, "from_centre_mm": None}
    mask[5, 5, 5] = mask[6, 6, 6] = True  # touch at a corner
    assert structure(mask, affine)["parts"] == 1
    mask[10, 5, 5] = True
    found = structure(mask, affine)
    assert (found["parts"], found["at_border"]) == (2, False)
    assert found["ml"] == pytest.approx(3 * 6 / 1000)
    assert found["from_centre_mm"] == pytest.approx(np.linalg.norm([9.5 - 7, 2 * (9.5 - 16 / 3), 3 * (9.5 - 16 / 3)]))
    for index in (0, 19):
        touching = mask.copy()
        touching[4, index, 4] = True
        assert structure(touching, affine)["at_border"]


def test_cochlea_sides_follow_the_affine():
    mask = np.zeros((80, 10, 10), bool)
    mask[10, 5, 4:6] = True  # 2 voxels
    affine = np.diag([1.0, 1.0, 1.0, 1.0])  # RAS: low x is left
    assert cochlea_sides(mask, affine) == {"cochlea_right_ml": 0, "cochlea_left_ml": pytest.approx(0.002)}
    assert cochlea_sides(mask, np.diag([-1.0, 1, 1, 1])) == {
        "cochlea_right_ml": pytest.approx(0.002),
        "cochlea_left_ml": 0,
    }
    mask[60, 5, 5] = True
    assert cochlea_sides(mask, affine)["cochlea_right_ml"] == pytest.approx(0.001)
    assert cochlea_sides(np.zeros_like(mask), affine) == {"cochlea_right_ml": 0, "cochlea_left_ml": 0}


def test_fingerprint_knows_a_scan_stored_otherwise():
    array = np.random.RandomState(0).randint(0, 900, (6, 5, 4)).astype(np.int16)
    ras, _ = to_ras(array, np.diag([1.0, 1, 1, 1]))
    other, _ = to_ras(array[::-1, :, ::-1].astype(np.float64), np.diag([-1.0, 1, -1, 1]))
    assert fingerprint(ras) == fingerprint(other)
    changed = ras.copy()
    changed[0, 0, 0] += 1
    assert fingerprint(ras) != fingerprint(changed)
    assert fingerprint(ras) != fingerprint(ras.reshape(5, 6, 4))


def test_robust_z_by_hand():
    values = np.array([1.0, 2, 3, 4, 5])  # median 3, median absolute deviation 1
    assert robust_z(9, values, 0.1) == pytest.approx(6 / 1.4826)
    assert robust_z(9, values, 3) == pytest.approx(2)
    assert robust_z(8, 2.0**values, 0, logarithmic=True) == pytest.approx(0)
    assert robust_z(1.01, np.ones(12), 0.05) == pytest.approx(0.2)


def test_three_classes_are_merged_and_larger_tumours_allowed(tmp_path):
    scan, label = scan_and_label(1)
    three = np.where(label == 2, 3, label).astype(np.uint8)
    three[:66][three[:66] == 1] = 2
    sections = {}
    add(tmp_path, sections, "source_training", "a", scan, three)
    write_datalist(sections, tmp_path / "list.json", {0: 0, 1: 1, 2: 1, 3: 2})
    record = inspect(tmp_path / "list.json", progress=False).records[0]
    assert record["vs_ml"] == pytest.approx((label == 1).sum() * VOXEL_ML)
    assert (record["vs_parts"], record["cochlea_parts"]) == (1, 2)
    large = [{**record, "vs_ml": 20.0}]
    assert [flag.rule for flag in find_flags(large)[0][0]] == ["vs_volume"]
    assert find_flags(large, is_2023=True)[0][0] == []
    # 9.84 is 9.8 as the range was printed, and 0.036 is 0.04
    assert find_flags([{**record, "vs_ml": 9.84}, {**record, "voxels_hash": "b", "vs_ml": 0.036}])[0] == [[], []]


def test_what_a_whole_site_does_is_said_once(clean):
    records = [
        {**record, "site": "two" if record["section"] == "target_training" else "one"} for record in clean[1].records
    ]
    for record in records:
        if record["site"] == "two":
            record["spacing_x"] = record["spacing_y"] = 1.2
    flags, notes = find_flags(records)
    assert not any(flags)
    assert len(notes) == 1
    assert notes[0].startswith("target_training, two: 11 of 11 scans have pixels outside")


def test_small_groups_have_no_unusual_members(clean):
    records = [dict(record) for record in clean[1].records if record["section"] == "source_training"][:9]
    records[0]["q99"] *= 50
    assert not any(find_flags(records)[0])


def test_thumbnail_shows_outlines(clean):
    scan, label = (Volume(array, SPACING) for array in scan_and_label(2))
    for classes, outlined in ((label, True), (None, False), (Volume(np.zeros_like(label.array), SPACING), False)):
        picture = Image.open(BytesIO(thumbnail(scan, classes)))
        assert picture.size == (450, 168)
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
        for colour in ((255, 212, 0), (56, 198, 255)):
            near = (np.abs(pixels - colour).max(axis=1) < 60).sum()
            assert (near > 40) == outlined


def test_page_of_a_clean_set(clean, tmp_path):
    page, content = written(clean[1], clean[0], tmp_path)
    assert page.loaded == []
    assert len(page.images) == 24 + 2
    assert all(source.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) for source in page.images)
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert len(page.ids) == len(set(page.ids)) == 2 * 24
    html = (tmp_path / "inspection.html").read_text(encoding="utf-8")
    assert "Nothing stands out" in html
    assert "http" not in html
    with (tmp_path / "inspection.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["case"] for row in rows] == [case["case"] for case in content["cases"]]
    assert float(rows[0]["vs_ml"]) == pytest.approx(content["cases"][0]["vs_ml"], rel=1e-5)
    assert rows[0]["koos"] == "1"
    assert rows[-1]["vs_ml"] == ""


def test_page_names_the_most_serious_first(planted, tmp_path):
    page, content = written(planted[0], tmp_path / "list.json", tmp_path)
    assert all(link[1:] in page.ids for link in page.links)
    html = (tmp_path / "inspection.html").read_text(encoding="utf-8")
    assert html.index("4 scans: the same voxels in two sections") < html.index("1 scan: a label without VS")
    assert {flag["rule"] for case in content["cases"] for flag in case["flags"]} == set(RULES)


def test_free_folder_without_sites_and_labels(tmp_path):
    sections = {}
    for number in range(2):
        add(tmp_path, sections, "own_scans", f"scan <{number}>", scan_and_label(number)[0], site="")
    write_datalist(sections, tmp_path / "list.json")
    inspection = inspect(tmp_path / "list.json", progress=False)
    page, _ = written(inspection, tmp_path / "list.json", tmp_path)
    assert len(page.images) == 4
    assert "scan &lt;0&gt;" in (tmp_path / "inspection.html").read_text(encoding="utf-8")
    assert not inspection.outliers


def test_processes_do_not_change_the_result(tmp_path):
    write_datalist(clean_sections(tmp_path, 2, 1), tmp_path / "list.json")
    one, two = (inspect(tmp_path / "list.json", jobs, progress=False) for jobs in (1, 2))
    assert one == two


@pytest.fixture
def script():
    specification = importlib.util.spec_from_file_location("inspect_script", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_command_collects_faults(tmp_path, script, capsys):
    sections = clean_sections(tmp_path, 3, 2)
    broken = Path(sections["source_training"][1]["image"])
    broken.write_bytes(broken.read_bytes()[:5000])
    save_nifti(np.full(SHAPE, 9, np.uint8), LPS, sections["source_training"][2]["label"])
    sections["target_training"][1]["case"] = "target_0"
    del sections["source_training"][0]["koos"]
    write_datalist(sections, tmp_path / "list.json")
    assert (
        script.main([str(tmp_path / "list.json"), "--output", str(tmp_path / "new" / "page.html"), "--jobs", "1"]) == 1
    )
    printed = capsys.readouterr().out
    assert "scans inspected: 3, outliers: 0, faulty, left out: 3" in printed
    faults = json.loads((tmp_path / "new" / "page.json").read_text())["faults"]
    assert [fault["case"] for fault in faults] == ["source_1", "source_2", "target_0"]
    assert str(broken) in faults[0]["fault"]
    assert "label values 9" in faults[1]["fault"]
    assert "another scan of case target_0" in faults[2]["fault"]
    html = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    assert "Faulty files" in html
    assert "page.csv" in html
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["page.csv", "page.html", "page.json"]


def test_all_faulty_still_gives_a_page(tmp_path, script):
    sections = clean_sections(tmp_path, 1, 1)
    for items in sections.values():
        for item in items:
            Path(item["image"]).unlink()
    write_datalist(sections, tmp_path / "list.json")
    assert script.main([str(tmp_path / "list.json"), "--jobs", "1"]) == 1
    assert "faulty cases left out" in (tmp_path / "inspection" / "inspection.html").read_text(encoding="utf-8")


def test_nothing_to_inspect(tmp_path, script, capsys):
    (tmp_path / "empty.json").write_text("{}")
    (tmp_path / "text.json").write_text("no")
    (tmp_path / "file").write_text("")
    write_datalist(clean_sections(tmp_path, 1, 1), tmp_path / "list.json")
    for words in (
        [tmp_path / "missing.json"],
        [tmp_path / "empty.json"],
        [tmp_path / "text.json"],
        [tmp_path / "list.json", "--output", tmp_path / "file" / "out"],
        [tmp_path / "list.json", "--jobs", "0"],
    ):
        with pytest.raises(SystemExit) as caught:
            script.main([str(word) for word in words])
        assert caught.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
    with pytest.raises(InputError, match="has no items"):
        inspect(tmp_path / "empty.json")
