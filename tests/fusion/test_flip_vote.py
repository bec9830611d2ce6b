"""Chen 2023's vote, by hand and against a transcription of their cascade.py."""

import numpy as np
import pytest
from scipy import ndimage
from skimage import measure

from crossmoda.fusion import FlipVote

THREE = FlipVote(tumour_labels=(1, 2), cochlea_label=3)


def passes(count, labels, others):
    """Eight passes: `count` with `labels`, the rest with `others`."""
    return [labels] * count + [others] * (8 - count)


def transcription(masks):
    """cascade.py as it stands (three classes; first axis the slices), but for its files and prints."""
    stack = np.stack(masks)
    common, any_marked = (stack > 0).all(0), (stack > 0).any(0)
    gap = common.astype(int) - any_marked.astype(int)
    distance = (gap != 0).sum() / (common.sum() + any_marked.sum() + 1)
    out = np.zeros(masks[0].shape)
    if distance > 0.7:
        out[(stack == 1).any(0)] = 1
        label2 = (stack == 2).any(0)
        out[label2] = 2
        slices = [i for i in range(out.shape[0]) if label2[i].max() > 0]
        middle = np.mean(slices) if slices else np.nan
        label3 = 3 * (stack == 3).any(0)
        for i in range(label3.shape[0]):
            if abs(i - middle) > 30:
                label3[i] = 0
        out[label3 == 3] = 3
        return out.astype(np.uint8)
    label1_first = (stack == 1).all(0).sum() > (stack == 2).any(0).sum()
    lesion = ((stack >= 1) & (stack <= 2)).sum(0) / 8
    lesion = (lesion > 0.7).astype(int)
    label1 = ((stack == 1).sum(0) / 8 > 0.7).astype(int)
    label2 = ((stack == 2).sum(0) / 8 > 0.7).astype(int)
    if label2.max() > 0:
        labeled = measure.label(label2)
        region = sorted(measure.regionprops(labeled), key=lambda r: r.area, reverse=True)[0]
        labeled[labeled != region.label] = 0
        label2 = 2 * label2 * (labeled > 0)
    if label1_first:
        out[label1 == 1] = 1
        out[label2 == 2] = 2
    else:
        out[label2 == 2] = 2
        out[label1 == 1] = 1
    hole = lesion - ((label1 + label2) > 0) * lesion
    out[hole > 0] = 2 if label1_first else 1
    label3 = np.where((stack == 3).sum(0) / 8 > 0.5, 3, 0)
    if label3.sum() == 0:
        label3 = (stack == 3).any(0).astype(int)
        labeled = measure.label(label3)
        for region in measure.regionprops(labeled):
            if region.area > 50:
                label3[labeled == region.label] = 3
    out[label3 == 3] = 3
    out = out.astype(np.uint8)
    tumour = (out > 0) & (out < 3)
    labeled = measure.label(tumour)
    regions = sorted(measure.regionprops(labeled), key=lambda r: r.area, reverse=True)
    kept = tumour.copy()
    if len(regions) > 1:
        both = [r for r in regions if len(np.unique((labeled == r.label) * out)) == 3]
        kept = labeled == (both or regions)[0].label
    kept[out == 3] = True
    return out * kept


def random_passes(seed, noise, shape=(14, 13, 60)):
    """Blobs of the three classes, each pass with its own errors; z last."""
    random = np.random.RandomState(seed)
    truth = np.zeros(shape, np.uint8)
    truth[3:8, 3:8, 20:28] = 1
    truth[8 : 8 + random.randint(1, 4), 4:7, 20:28] = 2
    truth[11:13, 9:12, 15:25] = truth[1:3, 9:12, 15:25] = 3
    result = []
    for _ in range(8):
        wrong = ndimage.gaussian_filter(random.randn(*shape), 1.2)
        wrong = np.abs(wrong) > np.quantile(np.abs(wrong), 1 - noise)
        result.append(np.where(wrong, random.randint(0, 4, shape), truth).astype(np.uint8))
    return result


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("noise", [0.02, 0.1, 0.3])
def test_the_vote_is_the_codes(seed, noise):
    masks = random_passes(seed, noise)
    expected = transcription([mask.transpose(2, 0, 1) for mask in masks]).transpose(1, 2, 0)
    np.testing.assert_array_equal(THREE(masks), expected)
    assert THREE(masks).dtype == np.uint8


def test_both_branches_are_reached():
    assert THREE._disagreement(np.stack(random_passes(0, 0.02))) < 0.7
    assert THREE._disagreement(np.stack(random_passes(0, 0.3))) > 0.7


@pytest.mark.parametrize(("votes", "kept"), [(5, False), (6, True), (8, True)])
def test_tumour_needs_six_of_eight(votes, kept):
    base = np.zeros((12, 12, 12), np.uint8)
    base[2:8, 2:8, 2:8] = 1  # agreed by all
    more = base.copy()
    more[8, 2:8, 2:8] = 1
    for vote in (THREE, FlipVote()):
        assert (vote(passes(votes, more, base))[8, 2:8, 2:8] == kept).all()


@pytest.mark.parametrize(("votes", "kept"), [(4, False), (5, True)])
def test_cochlea_needs_more_than_half(votes, kept):
    base = np.zeros((12, 12, 12), np.uint8)
    base[2:8, 2:8, 2:8] = 1
    base[10, 10, 10] = 3
    more = base.copy()
    more[10, 8, 10] = 3
    fused = THREE(passes(votes, more, base))
    assert (fused[10, 8, 10] == 3) == kept
    assert fused[10, 10, 10] == 3


def test_voxels_of_undecided_part_go_to_the_smaller_part():
    a = np.zeros((12, 12, 12), np.uint8)
    a[2:8, 2:8, 2:8] = 1
    a[8, 4:6, 4:6] = 2
    b = a.copy()
    a[9, 4:6, 4:6], b[9, 4:6, 4:6] = 1, 2  # tumour for all, which part for half of them each
    assert (THREE(passes(4, a, b))[9, 4:6, 4:6] == 2).all()


def test_cochlea_that_no_majority_marks_is_taken_from_any_pass():
    base = np.zeros((12, 12, 12), np.uint8)
    base[1:7, 1:7, 1:7] = 1
    other = base.copy()
    other[8:12, 8:12, 8:12] = 3  # 64 voxels
    other[8, 1, 1] = 3  # a speck
    fused = THREE(passes(2, other, base))
    assert (fused[8:12, 8:12, 8:12] == 3).all()
    assert fused[8, 1, 1] == 0


def test_bad_case_of_two_classes():
    shape = (10, 10, 80)
    a, b = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    a[2:4, 2:4, 40:42], b[6:8, 6:8, 40:42] = 1, 1
    a[1, 8, 12], a[1, 8, 9] = 2, 2  # 28.5 and 31.5 slices from the tumour's mean, 40.5
    fused = FlipVote()(passes(4, a, b))
    np.testing.assert_array_equal(fused == 1, (a == 1) | (b == 1))
    assert (fused[1, 8, 12], fused[1, 8, 9]) == (2, 0)


def test_nothing_and_equal_passes():
    empty = np.zeros((6, 6, 6), np.uint8)
    for vote in (THREE, FlipVote()):
        assert not vote([empty] * 8).any()
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[2:6, 2:6, 2:6], labels[9, 9, 9] = 1, 2
    np.testing.assert_array_equal(FlipVote()([labels] * 8), labels)
