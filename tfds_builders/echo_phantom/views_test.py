"""Each view shows what it says: masks under the picture, the drawn EF, the drawn thickness."""

import cv2
import numpy as np
import pytest

from tfds_builders.echo_phantom import measure, scanner, screen, views
from tfds_builders.echo_phantom.simulator import Clip, simulate

SEEDS = (1, 5, 6)


@pytest.fixture(scope="module", params=views.VIEWS)
def view(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def clips(view) -> list[Clip]:
    return [simulate(views.VIEWS[view].draw(np.random.default_rng(seed)), view) for seed in SEEDS]


def test_masks_are_where_the_picture_shows_the_heart(view, clips):
    for clip in clips:
        sector = ~scanner.outside(clip.heart.params)
        assert clip.frames[:, ~sector].max() == 0
        assert set(np.unique(clip.masks)) == ({0, 1, 2} if view == "PSAX" else {0, 1, 2, 3})
        for frame in clip.traced_frames:
            grey, mask = clip.frames[frame][sector], clip.masks[frame][sector]
            assert grey[mask == 2].mean() > 1.2 * grey[mask == 1].mean()
            drawn = np.zeros((448, 448), np.uint8)  # four times as fine
            cv2.fillPoly(drawn, [np.rint((clip.outline(frame) + 0.5) * 4 - 0.5).astype(np.int32)], 1)
            share = drawn.reshape(112, 4, 112, 4).mean(axis=(1, 3)) > 0.5
            cavity = clip.masks[frame] == 1
            assert 2 * (share & cavity).sum() / (share.sum() + cavity.sum()) > 0.98


def test_the_motion_has_the_drawn_ef(clips):
    for clip in clips:
        heart = clip.heart
        assert 100 * (1 - heart.volume(1.0) / heart.volume(0.0)) == pytest.approx(heart.params.ef, abs=0.2)
        assert clip.ef == pytest.approx(heart.params.ef, abs=2)
        areas = (clip.masks == 1).sum(axis=(1, 2))
        assert areas[clip.es_frame] < 0.95 * areas[clip.ed_frame]


def test_what_does_not_move_does_not_depend_on_the_ef(view):
    drawn = [views.VIEWS[view].draw(np.random.default_rng(seed)) for seed in range(200)]
    ef = [params.ef for params in drawn]
    for name in ("half_width", "wall", "length", "gain", "heart_rate", "contrast", "rv_width"):
        # 0.26 is 3.6 deviations of the correlation of 200 independent pairs.
        assert abs(np.corrcoef([getattr(params, name) for params in drawn], ef)[0, 1]) < 0.26, name


def test_short_axis_area_and_volume():
    clip = simulate(views.VIEWS["PSAX"].draw(np.random.default_rng(2)), "PSAX")
    area = (clip.masks == 1).sum(axis=(1, 2))
    for frame in clip.traced_frames:
        contraction = clip.contraction[frame]
        assert clip.heart.area(contraction) == pytest.approx(area[frame], rel=0.02)
        length = clip.heart.axis_length(contraction)
        assert clip.heart.volume(contraction) == pytest.approx(5 / 6 * clip.heart.area(contraction) * length)
    assert clip.heart.axis_length(0.0) == clip.heart.params.length
    # Wall all around: four directions from the middle of the cavity meet it.
    y, x = np.argwhere(clip.masks[clip.ed_frame] == 1).mean(axis=0).round().astype(int)
    mask = clip.masks[clip.ed_frame]
    assert all(2 in ray for ray in (mask[y, x:], mask[y, :x], mask[y:, x], mask[:y, x]))


def test_long_axis_walls_are_as_thick_as_drawn():
    params = views.VIEWS["PLAX"].draw(np.random.default_rng(3))
    heart = views.VIEWS["PLAX"].heart(params)
    lines = heart.lines(0.0)
    lengths = {name: np.linalg.norm(ends[1] - ends[0]) for name, ends in lines.items()}
    assert lengths["IVS"] == pytest.approx(params.septum, rel=0.01)
    assert lengths["LVPW"] == pytest.approx(params.wall, rel=0.01)
    assert lengths["LVID"] == pytest.approx(params.half_width * (1 + params.septal_width), rel=0.05)
    assert np.array_equal(lines["IVS"][1], lines["LVID"][0]) and np.array_equal(lines["LVID"][1], lines["LVPW"][0])
    thick = {name: np.linalg.norm(ends[1] - ends[0]) for name, ends in heart.lines(1.0).items()}
    assert thick["IVS"] > lengths["IVS"] and thick["LVPW"] > lengths["LVPW"] and thick["LVID"] < lengths["LVID"]


def test_a_circle_traced_by_hand():
    angle = np.linspace(0, 2 * np.pi, 1000, endpoint=False)
    circle = 50 + 20 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    traced = measure.hand_traced(circle, 40, 1.0)
    assert traced.shape == (40, 2)
    np.testing.assert_allclose(np.linalg.norm(traced - 50, axis=1), 19, atol=0.02)


@pytest.mark.parametrize("mirrored", [False, True])
def test_points_and_labels_on_the_screen(mirrored):
    place = screen.Screen(240, 320, 1.75, top=8, left=62, mirrored=mirrored)
    masks = np.zeros((1, 112, 112), np.uint8)
    masks[0, 20:40, 60:100] = 3
    shown = place.show_labels(masks)[0]
    y, x = np.argwhere(shown == 3).mean(axis=0)
    assert np.array([x, y]) == pytest.approx(place.points(np.array([79.5, 29.5])), abs=0.3)
    # 62 + 1.75 * 80 - 0.5, or as far from the right edge of the 196 pixels.
    assert x == pytest.approx(62 + (196 - 140 if mirrored else 140) - 0.5, abs=0.3)
    assert (shown == 3).sum() == pytest.approx(20 * 40 * 1.75**2, rel=0.03)
    picture = place.show(masks * 50)[0]
    assert picture[shown == 3].min() > 60 and picture[:, :62].max() == picture[:8].max() == 0
