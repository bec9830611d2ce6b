"""nnU-Net's numbers in the segmentation-3d bundle: plan, loss, optimisation, and each augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.transforms import Compose
from segmentation3d_bundle import SMALL, overrides, parsed
from segmentation_bundle import write_dataset

TWO_D = "methods/nnunet_2d"


def values(names, *files, **more):
    parser = parsed("train", *files, **more)
    return [parser.get_parsed_content(name) for name in names.split()]


def test_shins_plan():
    patch, divisor, batch, epochs, iterations = values(
        "patch_size patch_divisor batch_size max_epochs iterations_per_epoch"
    )
    assert (patch, divisor) == ([192, 256, 40], [32, 32, 8])  # 40 x 256 x 192 as (z, y, x)
    assert (batch, epochs, iterations) == (2, 200, 250)
    order, rotation, axes, mirror = values("image_order rotation augmented_axes mirror_axes")
    assert (order, axes, mirror) == ([3, 3, 0], [0, 1], [0, 1, 2])  # 1.5 mm is more than three times 0.41 mm
    assert rotation == pytest.approx([0, 0, np.pi], abs=1e-4)
    (net,) = values("network_def")
    assert abs(sum(p.numel() for p in net.parameters()) / 30.7e6 - 1) < 0.01
    assert len(net.deep_supervision_heads) == 3


def test_isotropic_plans_turn_about_all_axes():
    order, rotation, axes = values("image_order rotation augmented_axes", dummy_2d=False, resample_z_nearest=False)
    assert (order, axes) == ([3, 3, 3], [0, 1, 2])
    assert rotation == pytest.approx([np.pi / 6] * 3, abs=1e-4)


def test_2d_plan():
    patch, divisor, batch_dice, mirror, spacing = values(
        "patch_size patch_divisor batch_dice mirror_axes spacing", TWO_D
    )
    assert (patch, divisor, batch_dice, mirror) == ([256, 256, 1], [64, 64, 1], True, [0, 1])  # six poolings
    assert spacing[2] == -1
    with torch.device("meta"):
        (net,) = values("network_def", TWO_D)
    assert max(net.filters) == 512
    assert len(net.deep_supervision_heads) == 4
    kernels = {m.kernel_size[2] for m in net.modules() if isinstance(m, torch.nn.Conv3d | torch.nn.ConvTranspose3d)}
    assert kernels == {1}


def test_optimiser_and_schedule():
    optimizer, schedule, clip = values("optimizer lr_scheduler gradient_norm", **SMALL)
    assert isinstance(optimizer, torch.optim.SGD)
    group = optimizer.param_groups[0]
    assert (group["momentum"], group["nesterov"], group["weight_decay"], clip) == (0.99, True, 3e-5, 12)
    rates = []
    for _ in range(200):
        rates.append(group["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.01 * (1 - epoch / 200) ** 0.9 for epoch in range(200)])


def nnunet_loss(logits, label, batch_dice):
    """nnU-Net's DC_and_CE_loss, plus 1: its Dice term is the negative Dice."""
    p, onehot = logits.softmax(1), F.one_hot(label[:, 0].long(), 3).permute(0, 4, 1, 2, 3).float()
    axes = (0, 2, 3, 4) if batch_dice else (2, 3, 4)
    tp, fp, fn = ((a * b).sum(axes) for a, b in ((p, onehot), (p, 1 - onehot), (1 - p, onehot)))
    dice = (2 * tp + 1e-5) / (2 * tp + fp + fn + 1e-5)
    log_p = (logits - logits.logsumexp(1, keepdim=True)).gather(1, label.long())
    return 1 - dice[..., 1:].mean() - log_p.mean()


@pytest.mark.parametrize("files", [[], [TWO_D]], ids=["3D", "2D"])
def test_loss_is_nnunets(files):
    torch.manual_seed(0)
    label = torch.randint(0, 3, (2, 1, 16, 16, 8)).float()
    label[1][label[1] == 2] = 0  # a sample without one of the classes
    shapes = [(16, 16, 8), (8, 8, 8), (4, 4, 4), (2, 2, 2), (1, 1, 1)][: 4 + len(files)]
    outputs = [torch.randn(2, 3, *shape) for shape in shapes]
    (loss,) = values("loss", *files)
    weights = np.array([1, 0.5, 0.25, 0.125, 0.0625][: len(shapes)])
    expected = 0
    for output, weight, shape in zip(outputs, weights / weights.sum(), shapes, strict=True):
        index = [((torch.arange(n) + 0.5) * full / n).long() for n, full in zip(shape, (16, 16, 8), strict=True)]
        small = label[:, :, index[0]][:, :, :, index[1]][..., index[2]]  # the voxel at each coarse voxel's centre
        expected += weight * nnunet_loss(output, small, batch_dice=bool(files))
    assert float(loss(outputs, label)) == pytest.approx(float(expected), rel=1e-5)
    assert float(loss(outputs[0], label)) == pytest.approx(float(nnunet_loss(outputs[0], label, bool(files))), rel=1e-5)


def test_share_of_forced_samples():
    """One of two, four of twelve: nnU-Net rounds the share of the others."""
    assert values("crop")[0].foreground_share == 0.5
    assert values("crop", TWO_D)[0].foreground_share == pytest.approx(1 / 3)
    assert values("crop")[0].margin == (87, 55, 0)


# --- augmentation -------------------------------------------------------------------------------------------------

SIZE = [24, 20, 12]
OFF = {
    **{f"{name}_prob": 0.0 for name in ("rotation", "scale", "noise", "blur", "brightness", "contrast")},
    **{f"{name}_prob": 0.0 for name in ("low_resolution", "gamma", "inverted_gamma")},
    "mirror_axes": [],
    "crop": "@identity",
}
ZERO = {  # drawn, but of no strength
    **{key: 1.0 for key in OFF if key.endswith("_prob")},
    "rotation": [0, 0, 0],
    "scale": [1, 1],
    "noise_std": 0.0,
    "blur_sigma": [1e-3, 1e-3],
    "brightness": 0.0,
    "contrast": 0.0,
    "low_resolution": [1, 1],
    "gamma": [1, 1 + 1e-6],
}


def sample(seed=0, size=SIZE):
    """The image tells the classes apart, so that a label that did not follow would be seen."""
    label = torch.zeros(1, *size)
    label[:, 6:12, 5:11, 3:8] = 1
    label[:, 14:20, 8:16, 4:9] = 2
    noise = torch.from_numpy(np.random.RandomState(seed).normal(0, 0.1, label.shape)).float()
    return {"image": label - 0.3 + noise, "label": label}


def augmentation(**more):
    parser = parsed("train", **{**OFF, "patch_size": SIZE, "dummy_2d": False, **more})
    return Compose(parser.get_parsed_content("random_transforms"))


@pytest.mark.parametrize("settings", [{}, ZERO], ids=["never", "of zero strength"])
def test_augmentation_that_is_off_does_nothing(settings):
    item = augmentation(**settings).set_random_state(0)(sample())
    assert torch.allclose(item["image"], sample()["image"], atol=1e-4)
    assert torch.equal(item["label"], sample()["label"])


EACH = {
    "rotation": {"rotation_prob": 1.0},
    "scale": {"scale_prob": 1.0},
    "noise": {"noise_prob": 1.0},
    "blur": {"blur_prob": 1.0},
    "brightness": {"brightness_prob": 1.0},
    "contrast": {"contrast_prob": 1.0},
    "low resolution": {"low_resolution_prob": 1.0},
    "gamma": {"gamma_prob": 1.0},
    "inverted gamma": {"inverted_gamma_prob": 1.0},
    "mirror": {"mirror_axes": [0, 1, 2]},
}


@pytest.mark.parametrize("name", EACH)
def test_each_augmentation_changes_the_image_and_keeps_the_label_with_it(name):
    augment = augmentation(**EACH[name]).set_random_state(1)
    original, spatial = sample(), name in ("rotation", "scale", "mirror")
    items = [augment(sample()) for _ in range(6)]
    assert any(not torch.allclose(item["image"], original["image"], atol=1e-3) for item in items)
    for item in items:
        image, label = item["image"], item["label"]
        assert image.shape == label.shape == original["image"].shape
        assert torch.isfinite(image).all()
        assert set(label.unique().tolist()) <= {0.0, 1.0, 2.0}
        if not spatial:
            assert torch.equal(label, original["label"])
        means = [float(image[label == c].mean()) for c in (0, 1, 2) if (label == c).any()]
        assert means == sorted(means)
    if spatial:
        assert any(not torch.equal(item["label"], original["label"]) for item in items)


def drawn(name, number=200, **more):
    """Pairs of an image before and after an intensity change alone."""
    augment = augmentation(**EACH[name], **more).set_random_state(0)
    image = sample()["image"]
    return image, [augment({"image": image.clone(), "label": image * 0})["image"] for _ in range(number)]


def test_ranges_of_noise_brightness_and_contrast():
    image, outputs = drawn("noise", 60)
    deviations = [float((out - image).std()) for out in outputs]
    assert 0 < min(deviations) < 0.01
    assert 0.09 < max(deviations) < 0.103
    image, outputs = drawn("brightness")
    factors = [float((out / image).median()) for out in outputs]
    assert (min(factors), max(factors)) == (pytest.approx(0.75, abs=0.01), pytest.approx(1.25, abs=0.01))
    assert torch.allclose(outputs[0], image * factors[0], atol=1e-4)
    image, outputs = drawn("contrast")
    middle = (image - image.mean()).abs() < 0.25  # away from the range's ends, which clip
    factors = [float(((out - image.mean()) / (image - image.mean()))[middle].median()) for out in outputs]
    assert (min(factors), max(factors)) == (pytest.approx(0.75, abs=0.03), pytest.approx(1.25, abs=0.03))
    assert all(out.min() >= image.min() - 1e-5 and out.max() <= image.max() + 1e-5 for out in outputs)


@pytest.mark.parametrize("name", ["gamma", "inverted gamma"])
def test_gamma_keeps_mean_and_deviation(name):
    """By hand: scaled to [0, 1], to the power of gamma, back, and then to the mean and deviation it had."""
    image, outputs = drawn(name, 20)
    for out in outputs:
        assert float(out.mean()) == pytest.approx(float(image.mean()), abs=1e-3)
        assert float(out.std()) == pytest.approx(float(image.std()), rel=1e-2)
    x = -image if name.startswith("inverted") else image
    unit = (x - x.min()) / (x.max() - x.min())
    errors = []
    for gamma in np.linspace(0.7, 1.5, 801):
        y = unit**gamma
        y = (y - y.mean()) / y.std() * image.std() + x.mean()
        errors.append(float(((-y if name.startswith("inverted") else y) - outputs[0]).abs().max()))
    assert min(errors) < 5e-3


def test_a_lone_slice_is_not_blurred_across():
    flat = {"patch_size": [24, 20, 1], "blur_prob": 1.0}
    augment = augmentation(**flat).set_random_state(0)
    image = torch.ones(1, 24, 20, 1)
    out = augment({"image": image, "label": image})["image"]
    assert out[0, 8:16, 8:12, 0].min() > 0.99


def test_patches_as_a_whole(tmp_path):
    """All of the default's augmentation, from volumes to batches."""
    data_list = write_dataset(tmp_path / "data")
    settings = overrides(data_list, tmp_path, num_workers=0, iterations_per_epoch=6)
    parser = parsed("train", **settings)
    batches = list(parser.get_parsed_content("train::dataloader"))
    assert len(batches) == 6
    for batch in batches:
        assert batch["image"].shape == batch["label"].shape == (2, 1, 32, 32, 8)
        assert torch.isfinite(batch["image"]).all()
        assert set(batch["label"].unique().tolist()) <= {0, 1, 2}
    held = [bool((label > 0).any()) for batch in batches for label in batch["label"]]
    assert np.mean(held) >= 0.4
