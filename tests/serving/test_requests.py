"""Requests: what is known goes through, what is dangerous does not."""

import pytest

from crossmoda.errors import InputError
from crossmoda.serving import check_name, infer_request, train_request


@pytest.mark.parametrize("name", ["crossmoda_ldn_1_hrT2", "scan (2)", "ä b", "final", "a..b"])
def test_names_that_stay_in_their_folder(name):
    assert check_name(name, "image") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", ".hidden", "a\0b", "a\nb", None, 7]
)
def test_names_that_leave_their_folder_are_refused(name):
    with pytest.raises(InputError, match="label_tag"):
        check_name(name, "label_tag")


def test_an_inference_keeps_only_what_it_needs(tmp_path):
    request = {"model": "m", "image": "case_1", "device": ["cpu"], "image_path": "/etc/passwd", "logging": "X"}
    assert infer_request(request, tmp_path) == {"model": "m", "image": "case_1", "device": "cpu"}


def test_images_are_named_or_uploaded(tmp_path):
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    uploaded = str(uploads / "tmp1.nii.gz")
    assert infer_request({"image": uploaded}, uploads)["image"] == uploaded
    for image in ("/etc/passwd", str(uploads / ".." / "scan.nii.gz"), "../scan", None, [1]):
        with pytest.raises(InputError, match="image"):
            infer_request({"image": image}, uploads)


@pytest.mark.parametrize(
    "option", [{"label_tag": "../final"}, {"result_extension": "/../x.nii.gz"}, {"device": "cpu; rm -r /"}]
)
def test_options_of_an_inference_are_checked(option, tmp_path):
    with pytest.raises(InputError):
        infer_request({"image": "case_1", **option}, tmp_path)
    allowed = {"label_tag": "final", "result_extension": ".nrrd", "device": "cuda:1"}
    assert allowed.items() <= infer_request({"image": "case_1", **allowed}, tmp_path).items()


def test_a_training_keeps_its_numbers_and_nothing_else():
    request = {"model": "m", "max_epochs": "3", "val_split": 0, "learning_rate": "1e-4", "tracking": "/tmp/x.json"}
    request |= {"tracking_uri": "http://elsewhere", "run_id": "other", "gpus": "0"}
    assert train_request(request) == {"model": "m", "max_epochs": 3, "val_split": 0.0, "learning_rate": 1e-4}
    assert train_request({"model": "m", "max_epochs": None}) == {"model": "m"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_epochs", 0),
        ("max_epochs", "many"),
        ("val_split", 1),
        ("val_split", -1),
        ("learning_rate", 0),
        ("learning_rate", "nan"),
        ("learning_rate", "inf"),
        ("device", "@x"),
    ],
)
def test_values_of_a_training_are_checked(key, value):
    with pytest.raises(InputError, match=key):
        train_request({"model": "m", key: value})
