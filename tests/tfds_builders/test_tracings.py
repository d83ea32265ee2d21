import numpy as np
import pytest

from discovr_jax.data.letterbox import letterbox
from tfds_builders import tracings


def inside_by_hand(ring: np.ndarray, x: int, y: int) -> bool:
    inside = False
    for (ax, ay), (bx, by) in zip(ring, np.roll(ring, -1, 0), strict=True):
        on_line = (bx - ax) * (y - ay) == (by - ay) * (x - ax)
        if on_line and min(ax, bx) <= x <= max(ax, bx) and min(ay, by) <= y <= max(ay, by):
            return True
        if (ay > y) != (by > y) and x < ax + (y - ay) * (bx - ax) / (by - ay):
            inside = not inside
    return inside


@pytest.mark.parametrize("seed", range(5))
def test_fill_agrees_with_the_even_odd_rule_pixel_by_pixel(seed):
    ring = np.random.default_rng(seed).integers(-6, 26, (9, 2))  # crosses itself and the canvas
    mask = tracings.fill(ring.astype(float), 20, 17)
    expected = [[inside_by_hand(ring, x, y) for x in range(17)] for y in range(20)]
    np.testing.assert_array_equal(mask, expected)


def test_fill_outside_the_canvas_is_empty():
    assert not tracings.fill(np.array([[30.0, 30], [40, 30], [40, 40]]), 20, 20).any()


def test_polygon_goes_down_one_side_and_up_the_other():
    rows = np.array([[9, 9, 9, 9], [0, 1, 5, 1], [0, 2, 6, 2], [0, 3, 7, 3]], float)
    ring = [[0, 1], [0, 2], [0, 3], [7, 3], [6, 2], [5, 1]]
    np.testing.assert_array_equal(tracings.polygon(rows), ring)


def test_letterbox_maps_points_where_it_maps_pixels():
    frames = np.zeros((1, 300, 400), np.uint8)
    frames[0, 96:105, 296:305] = 255  # centred on x = 300, y = 100
    square, placement = letterbox(frames, 100)
    y, x = np.array(np.nonzero(square[0] > 100)).mean(1)
    np.testing.assert_allclose(placement.points(np.array([300, 100])), [x, y], atol=0.5)
    assert square.shape == (1, 100, 100) and placement.top == 12


def test_letterbox_leaves_the_right_size_alone():
    frames = np.zeros((2, 50, 50), np.uint8)
    square, placement = letterbox(frames, 50)
    assert square is frames
    np.testing.assert_array_equal(placement.points(np.array([[3.5, 7.0]])), [[3.5, 7.0]])


def test_letterbox_makes_pixels_square_and_carries_the_spacing():
    frames = np.zeros((1, 100, 100), np.uint8)
    frames[0, 40:60, 40:60] = 255  # 20 rows of 0.5 mm and 20 columns of 0.25 mm: 10 x 5 mm
    square, placement = letterbox(frames, 100, (0.5, 0.25))
    assert placement.spacing((0.5, 0.25)) == (0.5, 0.5) and (placement.left, placement.top) == (25, 0)
    rows, columns = np.nonzero(square[0] > 127)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (20, 10)
    assert letterbox(frames, 100, (0.5, 0.5))[0] is frames


def test_letterbox_keeps_classes():
    masks = np.zeros((1, 90, 60), np.uint8)
    masks[0, 30:60, 20:40] = 3
    square, _ = letterbox(masks, 30, labels=True)
    expected = np.zeros((1, 30, 30), np.uint8)
    expected[0, 10:20, 12:18] = 3  # columns whose centre (3 j + 1 in the source) lies in 20..39, 5 to the right
    np.testing.assert_array_equal(square, expected)


def test_a_tracing_that_is_no_multiple_of_21_rows_is_flagged():
    chords = [[50.0, 10, 50, 30]] + [[40.0, y, 60, y] for y in np.linspace(10, 30, 20)]
    for rows, flags in ((21, set()), (16, {"short_tracing"}), (41, {"stacked_tracing", "short_tracing"})):
        stacked = np.array((chords * 2)[:rows])
        assert tracings.trace_mask(stacked, 112, 112)[1] == flags


def test_contour_is_filled_in_file_order():
    points = np.array([[10, 5], [20, 5], [20, 15], [10, 15]], float)
    mask, flags = tracings.contour_mask(points, 40, 40)
    assert mask.sum() == 121 and mask[5:16, 10:21].all() and flags == set()
    mask, flags = tracings.contour_mask(points - (15, 0), 40, 40)
    assert mask.sum() == 11 * 6 and flags == {"clipped_tracing"}
    mask, flags = tracings.contour_mask(points + 60, 40, 40)
    assert not mask.any() and flags == {"clipped_tracing", "empty_tracing"}
    assert tracings.contour_mask(points[:2], 40, 40)[1] == {"empty_tracing"}


def test_annotation_orders_phases_by_area():
    def draw(rows):
        return tracings.contour_mask(rows, 40, 40)

    square = np.array([[10, 10], [20, 10], [20, 20], [10, 20]], float)
    fields, flags = tracings.annotate({7: square / 2, 2: square, 4: square[:1]}, 8, draw)
    assert (fields["ed_frame"], fields["es_frame"], fields["mask_frames"]) == (2, 7, [2, 7])
    assert fields["masks"].dtype == np.uint8 and fields["masks"].sum((1, 2)).tolist() == [121, 36]
    assert flags == {"empty_tracing"}
    # Frames 8 and 9 do not exist: the larger of their tracings goes to frame 7, and alone it is neither phase.
    fields, flags = tracings.annotate({9: square / 2, 8: square}, 8, draw)
    assert (fields["mask_frames"], fields["ed_frame"], flags) == ([7], -1, {"clamped_frame"})
    assert fields["masks"].sum() == 121
    assert tracings.annotate({}, 8, draw)[0]["masks"] is None
