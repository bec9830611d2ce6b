"""The translation methods' numbers, options and faults."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import run
from translation_bundle import CONFIGS, METHODS, TINY, TINY_INFERENCE, config, files, paths, train, write_data

from crossmoda.engines import read_history
from crossmoda.losses.perceptual import vgg19_shapes


@pytest.fixture(scope="module")
def data_list(tmp_path_factory):
    """Small source and target scans."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", params=METHODS)
def trained(request, data_list, tmp_path_factory):
    """A finished tiny training of each method: (method, output folder, checkpoint folder)."""
    folder = tmp_path_factory.mktemp(request.param)
    train(request.param, data_list, folder)
    return request.param, folder / "out", folder / "models"


def test_shin_2021_numbers():
    shin = config("train.yaml", "methods/cyclegan_segmenter.yaml")
    weights = [shin[f"lambda_{name}"] for name in ("cycle", "identity", "segmentation")]
    assert weights == [10, 5, 100]
    assert (shin["max_epochs"], shin["learning_rate"], shin["fake_segmentation_after"]) == (50, 1e-4, 5)


def test_han_2022_numbers():
    han = config("train.yaml", "methods/msf_net.yaml")
    terms = ("reconstruction", "perceptual", "cycle", "segmentation", "parcellation")
    assert [han[f"lambda_{name}"] for name in terms] == [10, 0.01, 10, 1, 1]
    assert (han["max_epochs"], han["batch_size"], han["learning_rate"], han["betas"]) == (1000, 1, 2e-4, [0.9, 0.999])
    assert (han["slices"], han["parcellation_classes"], han["n_blocks"], han["features"]) == (3, 209, 6, 64)
    assert (han["pixdim"], han["roi_size"]) == ([0.4102, 0.4102, 1.0], [256, 256, 80])
    factor = han.get_parsed_content("poly_factor")
    assert [2e-4 * factor(epoch) for epoch in (0, 1000)] == pytest.approx([2e-4, 1e-5])
    networks = [
        han.get_parsed_content(f"{name}_def") for name in ("network", "source_decoder", "segmenter", "parcellator")
    ]
    assert sum(p.numel() for network in networks for p in network.parameters()) == pytest.approx(37.9e6, rel=0.01)


def without_parcellation(data_list, path):
    content = json.loads(Path(data_list).read_text())
    folder = Path(data_list).parent
    for items in content.values():
        for item in items:
            item.pop("parcellation", None)
            item.update({key: str(folder / item[key]) for key in ("image", "label") if key in item})
    path.write_text(json.dumps(content))
    return str(path)


def test_msf_net_without_parcellation_names_the_way_out_which_works(data_list, tmp_path, capsys):
    data_list = without_parcellation(data_list, tmp_path / "datalist.json")
    with pytest.raises(SystemExit) as exit_info:
        train("msf_net", data_list, tmp_path)
    assert exit_info.value.code == 2
    assert "has no parcellation in the data list" in capsys.readouterr().err
    train("msf_net", data_list, tmp_path, lambda_parcellation=0, max_epochs=1)
    (row,) = read_history(tmp_path / "out" / "history.csv")
    assert not any("parcellation" in name or "perceptual" in name for name in row)


def test_msf_net_with_perceptual_weights_trains_with_the_term_and_stores_no_vgg(data_list, tmp_path):
    weights = {name: torch.full(shape, 0.01) for name, shape in vgg19_shapes().items()}
    torch.save(weights, tmp_path / "vgg19.pth")
    train("msf_net", data_list, tmp_path, perceptual_weights=str(tmp_path / "vgg19.pth"), max_epochs=1)
    (row,) = read_history(tmp_path / "out" / "history.csv")
    assert row["loss_perceptual"] > 0
    state = torch.load(tmp_path / "models" / "last.pt", weights_only=True)
    assert not any("perceptual" in name for name in state["objective"])


@pytest.mark.parametrize("trained", ["msf_net"], indirect=True)
def test_msf_net_with_averaged_slices_and_with_wrong_weights(data_list, trained, tmp_path, capsys):
    method, _, ckpt_dir = trained
    options = {**TINY_INFERENCE, "data_list": data_list, "ckpt_dir": str(ckpt_dir)}
    volumes = []
    for average in (False, True):
        folder = tmp_path / str(average)
        run(config_file=files("inference", method), output_dir=str(folder), average_slices=average, **options)
        volumes.append(nib.load(folder / "s0_hrT2.nii.gz").get_fdata())
    assert not np.array_equal(*volumes)
    with pytest.raises(SystemExit):
        train(method, data_list, tmp_path, perceptual_weights=str(tmp_path / "none.pth"))
    assert "none.pth is missing: give torchvision's vgg19-dcbb9e9d.pth" in capsys.readouterr().err


@pytest.mark.parametrize("method", METHODS)
def test_draws_of_an_objective_are_each_processes_own(method):
    """multi_gpu_train.yaml sets `objective_seed`."""
    assert config("train.yaml", f"methods/{method}.yaml")["objective_def"].get("seed", "@objective_seed") == (
        "@objective_seed"
    )


def numbers(method, *names):
    parser = config("train.yaml", f"methods/{method}.yaml")
    return tuple(parser.get_parsed_content(name) for name in names)


RATES = ("learning_rate", "discriminator_learning_rate", "betas", "weight_decay")
EPOCHS = ("batch_size", "max_epochs", "constant_epochs")
CONTRAST = ("lambda_nce", "identity_nce", "n_patches", "nce_features", "temperature")


def test_chen_2023_numbers():
    assert numbers("cut", "learning_rate", "discriminator_learning_rate") == pytest.approx((2e-4, 2e-5))
    assert numbers("cut", "betas", "weight_decay") == ([0.5, 0.999], 1e-4)
    assert numbers("cut", "batch_size", "max_epochs", "roi_size", "init") == (10, 200, [256, 256, -1], "kaiming")
    assert numbers("cut", *CONTRAST) == (1, True, 256, 256, 0.07)
    for network in ("generator", "discriminator"):
        schedule = config("train.yaml", "methods/cut.yaml")[f"{network}_schedule"]
        assert schedule["_target_"].endswith("ReduceLROnPlateau")
        assert (schedule["factor"], schedule["patience"], schedule["threshold"]) == (0.2, 5, 0.01)


def test_park_2020_numbers():
    for method in ("cut_original", "fastcut"):
        assert numbers(method, *RATES) == (2e-4, 2e-4, [0.5, 0.999], 0)
        assert numbers(method, "init", "roi_size", "crop_size") == ("xavier", [286, 286, -1], [256, 256])
    assert numbers("cut_original", *EPOCHS) == (1, 400, 200)
    assert numbers("cut_original", *CONTRAST) == (1, True, 256, 256, 0.07)
    assert numbers("fastcut", *EPOCHS) == (1, 200, 150)
    assert numbers("fastcut", *CONTRAST) == (10, False, 256, 256, 0.07)
    assert config("train.yaml", "methods/fastcut.yaml")["objective_def"]["flip_equivariance"] is True


def test_kang_2022_numbers_of_qs_attn():
    assert numbers("qs_attn", *RATES) == (2e-4, 2e-4, [0.5, 0.999], 0)
    assert numbers("qs_attn", *EPOCHS) == (1, 400, 200)
    assert numbers("qs_attn", *CONTRAST) == (1, True, 256, 256, 0.07)
    assert numbers("qs_attn", "attention", "attention_layers", "pixdim") == ("global", 2, [0.41, 0.41, 1.5])


@pytest.mark.parametrize("method", ["cut", "cut_original", "fastcut", "qs_attn"])
def test_contrastive_networks_have_the_papers_sizes(method):
    parser = config("train.yaml", f"methods/{method}.yaml")
    for name, millions in (("network_def", 11.4), ("discriminator_def", 2.76), ("projector_def", 0.56)):
        count = sum(p.numel() for p in parser.get_parsed_content(name).parameters())
        assert count == pytest.approx(millions * 1e6, rel=0.01)


@pytest.mark.parametrize("attention", ["local", "local_global"])
def test_qs_attn_trains_with_each_attention(data_list, tmp_path, attention):
    train("qs_attn", data_list, tmp_path, attention=attention, max_epochs=1)
    assert "loss_nce_source" in read_history(tmp_path / "out" / "history.csv")[0]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"attention": "both"}, "attention must be one of global, local, local_global, but is 'both'"),
        ({"nce_layers": ["padded", "block5"]}, "nce_layers: name some of padded, down1, down2, block1, in this order"),
    ],
)
def test_a_wrong_option_of_contrastive_methods_says_so_in_one_line(data_list, tmp_path, capsys, option, message):
    with pytest.raises(SystemExit) as exit_info:
        train("qs_attn", data_list, tmp_path, **option)
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def test_plateau_schedule_trains_and_resumes(data_list, tmp_path):
    """The phantom's overlay puts a linear schedule in its place, so this goes without."""
    files = [str(CONFIGS / name) for name in ("train.yaml", "methods/cut.yaml")]
    options = {**TINY, **paths(data_list, tmp_path)}
    for epochs in (1, 2):
        run(config_file=files, **{**options, "max_epochs": epochs})
    state = torch.load(tmp_path / "models" / "last.pt", weights_only=True)
    rows = read_history(tmp_path / "out" / "history.csv")
    assert state["generator_schedule"]["best"] == pytest.approx(min(row["loss"] for row in rows), rel=1e-4)
    assert state["generator_schedule"]["last_epoch"] == 2


def test_site_cyclegan_translates_into_the_site_asked_for(data_list, tmp_path, capsys):
    assert config("train.yaml", "methods/site_cyclegan.yaml")["sites"] == ["ldn", "etz"]
    train("site_cyclegan", data_list, tmp_path, max_epochs=1)
    options = {**TINY_INFERENCE, "data_list": data_list, "ckpt_dir": str(tmp_path / "models")}
    volumes = []
    for site in ("ldn", "etz"):
        run(config_file=files("inference", "site_cyclegan"), output_dir=str(tmp_path / site), site=site, **options)
        volumes.append(nib.load(tmp_path / site / "s0_hrT2.nii.gz").get_fdata())
    assert not np.array_equal(*volumes)
    with pytest.raises(SystemExit) as exit_info:
        run(config_file=files("inference", "site_cyclegan"), output_dir=str(tmp_path), site="ukm", **options)
    assert exit_info.value.code == 2
    assert "site 'ukm' is none of those in sites (ldn, etz): name one of them with --site" in capsys.readouterr().err
