"""EF by masks of end-diastole and end-systole: boxes of known volume, and a line by hand."""

import numpy as np
import pytest

from discovr_jax.evaluation.evaluators import mask_ef
from discovr_jax.evaluation.features import tokens

NAN = np.nan


def boxes(widths):
    """Cavities [2 V, 16, 16] of pairs (width at ED, at ES): boxes 12 long, which stand for cylinders.

    EF = 1 - (width at ES / width at ED) ** 2.
    """
    masks = np.zeros((2 * len(widths), 16, 16), bool)
    for row, width in enumerate(np.ravel(widths)):
        masks[row, 2:14, :width] = True
    return masks


def frames_of(videos, spacing=1.0, phase=(0, 1)):
    record, count = np.repeat(np.arange(videos), 2), 2 * videos
    spacing = np.broadcast_to(spacing, (count, 2))
    return tokens.Labelled(record, np.zeros(count, int), np.tile(phase, videos), np.zeros((count, 16, 16)), spacing)


def test_boxes_by_hand():
    expert, ours = boxes([(8, 4)] * 5), boxes([(8, 4), (6, 6), (8, 0), (0, 8), (8, 4)])
    expert[8] = False  # the expert drew no cavity at end-diastole: there is no EF to miss
    spacing = np.where(np.arange(10)[:, None] % 2, NAN, 0.3)  # known at end-diastole alone: pixels throughout
    frames = frames_of(5, spacing)
    assert mask_ef.spacing(frames)[1] == "px" and mask_ef.spacing(frames_of(1))[1] == "mm"
    np.testing.assert_allclose(mask_ef.by_discs(frames, ours)[1::2], [75, 0, 100, 0, 75], atol=1e-9)
    speck = boxes([(1, 8)])
    speck[0, 4:] = False  # two pixels at end-diastole: the heart does not empty by -1000 %
    np.testing.assert_array_equal(mask_ef.by_discs(frames_of(1), speck), [NAN, 0])
    found = mask_ef.errors(frames, expert, ours)
    assert set(found) == {"mask_ef_error"}
    np.testing.assert_allclose(found["mask_ef_error"][1::2], [0, 75, 25, 75, NAN], atol=1e-9)
    assert np.isnan(found["mask_ef_error"][::2]).all()
    np.testing.assert_array_equal(mask_ef.errors(frames_of(5, phase=(0, 0)), expert, ours), {})


def test_the_line_is_least_squares_and_is_what_other_videos_are_corrected_by():
    """End-systole is drawn up to two pixels too wide, so that every EF is too low or right."""
    rng = np.random.default_rng(0)
    truth = [(8, width) for width in (2, 4, 4, 6, 6, 4, 2, 6, 4, 2)]
    ours = [(8, min(width + drawn, 8)) for (_, width), drawn in zip(truth, rng.integers(0, 3, 10), strict=True)]
    frames, expert, drawn = frames_of(10), boxes(truth), boxes(ours)
    line = mask_ef.calibration(frames, expert, drawn)
    wanted, got = ([100 * (1 - (es / ed) ** 2) for ed, es in pairs] for pairs in (truth, ours))
    np.testing.assert_allclose(line, np.polynomial.Polynomial.fit(got, wanted, 1).convert().coef, rtol=1e-9)
    found = mask_ef.errors(frames_of(2), boxes([(8, 4)] * 2), boxes([(8, 4), (8, 8)]), line)
    expected = [abs(line[0] + line[1] * ef - 75) for ef in (75, 0)]
    np.testing.assert_allclose(found["mask_ef_error_calibrated"][1::2], expected)
    np.testing.assert_allclose(found["mask_ef_error"][1::2], [0, 75], atol=1e-9)


@pytest.mark.parametrize(("videos", "line"), [(10, [75, 0]), (9, None)])
def test_masks_that_are_all_alike_give_the_mean_and_few_videos_no_line(videos, line):
    """As the mean mask, which is the same for every video."""
    expert, ours = boxes([(8, 4)] * videos), boxes([(6, 3)] * videos)
    found = mask_ef.calibration(frames_of(videos), expert, ours)
    assert found is None if line is None else found == pytest.approx(line)
