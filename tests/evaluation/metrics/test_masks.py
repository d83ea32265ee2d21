"""Agreement of masks against numbers computed by hand."""

import numpy as np
import pytest
from scipy import ndimage

from discovr_jax.evaluation.metrics import masks as mask_metrics


def box(top, left, height, width, size=12):
    mask = np.zeros((size, size), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def test_dice_and_iou_of_two_boxes():
    truth = np.stack([box(0, 0, 4, 5), box(0, 0, 4, 5), box(0, 0, 0, 0), box(0, 0, 0, 0), box(2, 2, 3, 3)])
    found = np.stack([box(2, 0, 4, 5), box(0, 0, 0, 0), box(1, 1, 1, 1), box(0, 0, 0, 0), box(2, 2, 3, 3)])
    np.testing.assert_allclose(mask_metrics.dice(truth, found), [2 * 10 / 40, 0, 0, np.nan, 1])
    np.testing.assert_allclose(mask_metrics.iou(truth, found), [10 / 30, 0, 0, np.nan, 1])


def test_hausdorff_of_shifted_boxes_in_their_unit():
    truth, found = box(1, 1, 5, 5)[None], box(1, 4, 5, 5)[None]
    # The left side of one outline and the right side of the other, 5 of 16 pixels each, lie 3 columns away.
    assert mask_metrics.hausdorff95(truth, found, np.array([[1.0, 1.0]])).tolist() == [3]
    assert mask_metrics.hausdorff95(truth, found, np.array([[1.0, 0.4]])).tolist() == [pytest.approx(1.2)]
    assert mask_metrics.hausdorff95(truth, truth, np.ones((1, 2))).tolist() == [0]
    nothing = np.zeros_like(truth)
    assert np.isnan(mask_metrics.hausdorff95(truth, nothing, np.ones((1, 2)))).all()


def test_one_far_pixel_moves_the_maximum_but_not_the_95th_percentile():
    truth, found = box(2, 2, 8, 8, 40), box(2, 2, 8, 8, 40)
    found[39, 39] = True
    assert mask_metrics.hausdorff95(truth[None], found[None], np.ones((1, 2))).tolist() == [0]


def test_hausdorff_agrees_with_distance_transforms():
    """SciPy's, over random blobs and pixels that are not square."""
    rng = np.random.default_rng(0)
    masks = ndimage.gaussian_filter(rng.normal(size=(8, 30, 30)), (0, 3, 3)) > 0.02
    truth, found, spacing = masks[:4], masks[4:], np.tile([0.7, 1.3], (4, 1))
    for a, b, got in zip(truth, found, mask_metrics.hausdorff95(truth, found, spacing), strict=True):
        edges = [mask & ~ndimage.binary_erosion(mask) for mask in (a, b)]
        away = [ndimage.distance_transform_edt(~edge, sampling=(0.7, 1.3)) for edge in edges]
        expected = max(np.percentile(away[1][edges[0]], 95), np.percentile(away[0][edges[1]], 95))
        assert got == pytest.approx(expected)


def test_volume_of_a_cylinder_and_a_ball():
    # A box 24 long and 8 wide stands for a cylinder: pi / 4 * 8 ** 2 * 24; pixels of half the size an eighth of it.
    lying = box(3, 2, 8, 24, size=30)
    masks, spacing = np.stack([lying, lying.T, lying, box(0, 0, 0, 0, size=30)]), np.ones((4, 2))
    spacing[2] = 0.5
    cylinder = np.pi / 4 * 8**2 * 24
    np.testing.assert_allclose(
        mask_metrics.disc_volume(masks, spacing), [cylinder, cylinder, cylinder / 8, 0], rtol=1e-12
    )
    y, x = np.mgrid[:61, :61] - 30.0
    ball = (x**2 + (y * 1.01) ** 2 <= 25**2)[None]
    np.testing.assert_allclose(mask_metrics.disc_volume(ball, np.ones((1, 2))), 4 / 3 * np.pi * 25**3, rtol=0.03)


def test_the_largest_region_of_each_class_stays():
    both = [[1, 1, 0, 1], [1, 0, 0, 1], [0, 1, 2, 0], [2, 0, 2, 2]]
    maps = np.array([both, [[0, 0, 0, 0]] * 4, [[3, 0, 0, 0], *[[0, 0, 0, 3]] * 3]], np.uint8)
    kept = mask_metrics.largest_regions(maps)
    # Pixels that touch at a corner are apart; class 2 keeps its three, class 3 its column.
    assert kept[0].tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 2, 0], [0, 0, 2, 2]]
    assert kept[1].tolist() == maps[1].tolist() and kept[2].tolist() == [[0, 0, 0, 0], *[[0, 0, 0, 3]] * 3]
    assert kept.dtype == np.uint8 and maps[0, 0, 3] == 1  # a copy
