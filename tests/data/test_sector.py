"""A phantom on a scanner's screen: the truth is known, so what is cut and what is kept can be measured."""

import pathlib

import numpy as np
import pytest

from discovr_jax.data import sector
from discovr_jax.data.io.video import Video
from discovr_jax.data.letterbox import letterbox
from discovr_jax.data.read import read_video
from tests.builder_case import write_video
from tfds_builders.echo_phantom.simulator import draw_heart, simulate

cv2 = pytest.importorskip("cv2", reason="the sector is found with OpenCV")
pydicom = pytest.importorskip("pydicom", reason="reading DICOM needs pydicom")

REAL = pathlib.Path("/work/shared/real_echo/videos")
HEIGHT, WIDTH, SIDE, TOP, LEFT = 300, 400, 224, 40, 90  # the screen, and the phantom on it


@pytest.fixture(scope="module", params=[3, 4, 11], ids=["bright", "dim", "shadowed"])
def phantom(request):
    """uint8 [24, 112, 112]."""
    return simulate(draw_heart(np.random.default_rng(request.param))).frames[:24]


@pytest.fixture(scope="module")
def fan(phantom):
    """bool [HEIGHT, WIDTH]: where the phantom's sector is on the screen."""
    place = np.zeros((HEIGHT, WIDTH), bool)
    seen = cv2.resize((phantom.max(0) > 0).astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
    hull = cv2.fillConvexPoly(np.zeros_like(seen), cv2.convexHull(cv2.findNonZero(seen)), 1)
    place[TOP : TOP + SIDE, LEFT : LEFT + SIDE] = hull
    return place


@pytest.fixture(scope="module")
def screen(phantom):
    """Frames and colour [24, HEIGHT, WIDTH] with text, ticks, a colour bar and a running ECG trace."""
    frames = np.zeros((len(phantom), HEIGHT, WIDTH), np.uint8)
    colour = np.zeros_like(frames)
    trace = (285 - 25 * np.exp(-((np.arange(WIDTH) % 90 - 45.0) ** 2) / 8)).astype(int)
    for number, frame in enumerate(frames):
        frame[TOP : TOP + SIDE, LEFT : LEFT + SIDE] = cv2.resize(phantom[number], (SIDE, SIDE))
        cv2.putText(frame, "DOE JANE 4711", (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, 1)
        cv2.putText(frame, f"{number:03d} 72 bpm", (300, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, 1)
        frame[60:200, 10:24] = np.linspace(255, 0, 140, dtype=np.uint8)[:, None]
        frame[40:260:20, 380:386] = 200
        colour[number, 60:200, 10:24] = 255
        until = 60 + 12 * number
        for line, value in ((frame, 150), (colour[number], 255)):
            cv2.polylines(line, [np.stack([np.arange(until), trace[:until]], 1)], False, value, 2)
    return frames, colour


def overlap(one, other):
    return (one & other).sum() / (one | other).sum()


def test_the_sector_is_found_whole_and_all_else_is_gone(screen, fan):
    frames, colour = screen
    found = sector.find_sector(frames, colour)
    assert found.found and overlap(found.mask, fan) > 0.93
    assert (found.mask & fan).sum() / fan.sum() > 0.985
    top, left, bottom, right = found.box
    isolated = sector.isolate(frames, found)
    assert isolated.shape == (len(frames), bottom - top, right - left) and isolated.dtype == np.uint8
    inside = fan[top:bottom, left:right] & found.mask[top:bottom, left:right]
    np.testing.assert_array_equal(isolated[:, inside], frames[:, top:bottom, left:right][:, inside])
    near = cv2.dilate(fan.astype(np.uint8), np.ones((9, 9)))[top:bottom, left:right].astype(bool)
    assert isolated[:, ~near].max() == 0
    assert max(top - TOP, left - LEFT, TOP + SIDE - bottom, LEFT + SIDE - right) < SIDE // 4


def test_without_colour_the_trace_is_still_too_thin_to_count(screen, fan):
    assert overlap(sector.find_sector(screen[0]).mask, fan) > 0.9


def test_noise_of_an_analogue_recording_is_not_the_sector(screen, fan):
    noise = np.random.default_rng(0).integers(0, 3, screen[0].shape)
    noisy = np.clip(screen[0] + noise, 0, 255).astype(np.uint8)
    found = sector.find_sector(noisy, screen[1])
    assert overlap(found.mask, fan) > 0.9 and not found.mask[:20].any()


def test_traces_of_compression_around_text_are_not_the_sector(screen, fan, tmp_path):
    write_video(tmp_path / "a.mp4", screen[0], codec="libx264", crf=28)
    found = sector.find_sector(read_video(tmp_path / "a.mp4").frames)
    assert (found.mask & fan).sum() / fan.sum() > 0.95 and overlap(found.mask, fan) > 0.8
    assert not found.mask[:25].any() and not found.mask[:, :30].any()


def test_a_clip_that_is_the_sector_alone_is_left_as_it_is(phantom):
    found = sector.find_sector(phantom)
    assert found.found and found.mask.all() and found.box == (0, 0, 112, 112)
    np.testing.assert_array_equal(sector.isolate(phantom, found), phantom)


def test_text_beside_a_sector_that_fills_the_frame_is_blackened_without_a_crop(phantom):
    frames = phantom.copy()
    frames[:, 2:8, 2:24] = 255
    found = sector.find_sector(frames)
    assert found.box == (0, 0, 112, 112)
    isolated = sector.isolate(frames, found)
    assert isolated[:, 2:8, 2:24].max() == 0
    np.testing.assert_array_equal(isolated[:, found.mask], phantom[:, found.mask])
    assert found.mask[phantom.max(0) > 0].mean() > 0.99


def test_a_small_sector_on_black_is_cropped_to(phantom):
    frames = np.zeros((len(phantom), 180, 230), np.uint8)
    frames[:, 20:132, 100:212] = phantom
    seen = np.argwhere(phantom.max(0) > 0)
    (top, left), (bottom, right) = seen.min(0) + (20, 100), seen.max(0) + (21, 101)
    box = sector.find_sector(frames).box
    assert np.abs(np.array(box) - (top, left, bottom, right)).max() <= 6


@pytest.mark.parametrize("kind", ["still", "spot", "noise"])
def test_where_nothing_is_like_a_sector_the_frame_stays_whole(kind):
    frames = np.tile(np.linspace(0, 200, 80).astype(np.uint8), (6, 60, 1))
    if kind == "spot":
        frames[::2, 10:20, 10:20] = 255
    if kind == "noise":
        frames = np.zeros((6, 60, 80), np.uint8)
        frames[np.arange(6), np.arange(6) * 9 + 3, np.arange(6) * 12 + 5] = 255
    video, flags = sector.isolate_video(Video(frames, 50.0))
    assert flags == {"sector_not_found"}
    np.testing.assert_array_equal(video.frames, frames)


def test_colour_doppler_is_told_from_a_trace(screen, phantom):
    frames, colour = screen
    _, flags = sector.isolate_video(Video(frames, 50.0, colour=colour))
    assert flags == {"sector_isolated"}
    doppler = colour.copy()
    doppler[::2, 120:160, 180:220] = 200
    assert "colour_doppler" in sector.isolate_video(Video(frames, 50.0, colour=doppler))[1]
    line = colour.copy()
    line[:, 150:152] = 255  # a trace across the sector
    assert "colour_doppler" not in sector.isolate_video(Video(frames, 50.0, colour=line))[1]


@pytest.mark.parametrize("tint", [(1, 1, 1), (1, 0.86, 0.62), (1, 0.84, 0.45), (0.62, 0.8, 1)])
def test_a_tinted_grey_map_has_the_sector_of_a_grey_one_and_no_doppler(screen, fan, tmp_path, tint):
    np.save(tmp_path / "a.npy", np.rint(screen[0][..., None] * np.array(tint)).astype(np.uint8))
    video = read_video(tmp_path / "a.npy")
    assert overlap(sector.find_sector(video.frames, video.colour).mask, fan) > 0.9
    assert sector.isolate_video(video)[1] == {"sector_isolated"}


def test_flags_of_a_file_go_on(phantom):
    video = Video(phantom, 50.0, flags=("mirrored",))
    assert sector.isolate_video(video)[1] == {"mirrored"}


def test_the_region_that_a_file_names_is_all_that_is_searched(phantom):
    """Two pictures side by side: the file says that the right one is meant."""
    frames = np.concatenate([phantom[::-1], np.zeros_like(phantom)[:, :, :20], phantom], axis=2)
    video, _ = sector.isolate_video(Video(frames, 50.0, pixel_spacing=(0.5, 0.4), region=(0, 132, 112, 244)))
    np.testing.assert_array_equal(video.frames, phantom)
    assert (video.pixel_spacing, video.region) == ((0.5, 0.4), None)


def test_spacing_holds_through_crop_and_resize():
    """A circle of 40 mm, drawn with pixels of 0.5 mm by 0.25 mm, is 40 mm across afterwards too."""
    y, x = np.mgrid[:150, :400]
    disc = ((y - 60) * 0.5) ** 2 + ((x - 250) * 0.25) ** 2 <= 20**2
    frames = np.where(disc, np.random.default_rng(0).integers(100, 255, (8, 150, 400)), 0).astype(np.uint8)
    video, _ = sector.isolate_video(Video(frames, 50.0, pixel_spacing=(0.5, 0.25)))
    square, placement = letterbox(video.frames, 112, video.pixel_spacing)
    rows, columns = placement.spacing(video.pixel_spacing)
    seen = square.max(0) > 60
    assert np.ptp(np.flatnonzero(seen.any(1))) * rows == pytest.approx(40, abs=1)
    assert np.ptp(np.flatnonzero(seen.any(0))) * columns == pytest.approx(40, abs=1)


def test_real_screen_with_text_around_the_sector():
    frames = read_video(pydicom.examples.get_path("ybr_color")).frames
    found = sector.find_sector(frames)
    # By eye: tip at row 20, column 168; ends at row 149, columns 41 and 297; the arc's lowest row is 201.
    fan = np.zeros((240, 320), np.uint8)
    arc = cv2.ellipse2Poly((168, 20), (181, 181), 0, 45, 135, 1)
    cv2.fillConvexPoly(fan, np.concatenate([[(168, 20)], arc]).astype(np.int32), 1)
    assert found.found and overlap(found.mask, fan > 0) > 0.8 and (found.mask & (fan > 0)).sum() > 0.99 * fan.sum()
    isolated = np.zeros_like(frames)
    top, left, bottom, right = found.box
    isolated[:, top:bottom, left:right] = sector.isolate(frames, found)
    for text in (np.s_[:, :40, :50], np.s_[:, :110, 300:], np.s_[:, 215:], np.s_[:, 190:, 280:]):
        assert frames[text].max() > 60 and isolated[text].max() == 0
    heart = np.s_[:, 50:190, 125:215]
    np.testing.assert_array_equal(isolated[heart], frames[heart])


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real clips are not at {REAL}")
def test_real_clips_of_echonet_are_left_as_they_are():
    for path in sorted(REAL.glob("*.avi")):
        frames = read_video(path).frames
        found = sector.find_sector(frames)
        assert found.found
        np.testing.assert_array_equal(sector.isolate(frames, found), frames)
