"""Optional values of a header that are wrong, and objects that are no clips."""

import struct

import numpy as np
import pytest

from discovr_jax.data import read
from discovr_jax.data.io.video import NotAClip, VideoError
from tests.builder_case import moving_square, write_video
from tests.data.io import test_dicom
from tests.data.io.test_dicom import region

pydicom = pytest.importorskip("pydicom", reason="reading DICOM needs pydicom")
from pydicom import config, encaps, uid  # noqa: E402 (after the skip)


@pytest.fixture
def grey():
    return np.random.default_rng(0).integers(0, 256, (3, 8, 12), dtype=np.uint8)


@pytest.fixture
def lenient(monkeypatch):
    """Pydicom writes what does not belong in a header, as others do."""
    monkeypatch.setattr(config.settings, "_writing_validation_mode", config.IGNORE)
    monkeypatch.setattr(config.settings, "reading_validation_mode", config.IGNORE)


def swapped(path, old, new):
    data = path.read_bytes()
    assert data.count(old) == 1 and len(old) == len(new)
    path.write_bytes(data.replace(old, new))
    return path


def write(path, grey, **tags):
    return test_dicom.write(path, "MONOCHROME2", grey.tobytes(), **tags)


UNREADABLE = {  # the value, other bytes for it, and the flag
    "a comma": ({"PixelSpacing": [0.3, 0.3]}, b"0.3\\0.3", b"0.3,0.3", "implausible_pixel_spacing"),
    "one of two": ({"PixelSpacing": [0.3, 0.3]}, b"0.3\\0.3", b"0.3    ", "implausible_pixel_spacing"),
    "three of two": ({"PixelSpacing": [0.3, 0.3]}, b"0.3\\0.3", b"1.\\1.\\1", "implausible_pixel_spacing"),
    "nothing": ({"PixelSpacing": [0.3, 0.3]}, b"0.3\\0.3", b"       ", None),
    "a comma in the rate": ({"FrameTime": "33.333"}, b"33.333", b"33,333", "implausible_fps"),
    "text": ({"FrameTime": "33.333"}, b"33.333", b"N/A   ", "implausible_fps"),
    "two values": ({"FrameTime": "33.333"}, b"33.333", b"33\\33 ", "implausible_fps"),
    "seconds": ({"FrameTime": "33.333"}, b"33.333", b"0.0333", "implausible_fps"),
    "aspect by letters": ({"PixelAspectRatio": ["11", "16"]}, b"11\\16", b"a\\b  ", "implausible_pixel_aspect"),
    "aspect by zero": ({"PixelAspectRatio": ["11", "16"]}, b"11\\16", b"0\\16 ", "implausible_pixel_aspect"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_an_optional_value_that_cannot_be_read_is_unknown(tmp_path, grey, lenient, kind):
    tags, old, new, flag = UNREADABLE[kind]
    video = read.read_video(swapped(write(tmp_path / "a.dcm", grey, **tags), old, new))
    np.testing.assert_array_equal(video.frames, grey)
    assert video.flags == (() if flag is None else (flag,))
    assert np.isnan(video.pixel_spacing).all() and np.isnan(video.pixel_aspect)
    np.testing.assert_equal(video.fps, np.nan if flag == "implausible_fps" else 25.0)


@pytest.mark.parametrize(
    "name", ["RegionLocationMinX0", "RegionLocationMaxY1", "PhysicalDeltaX", "PhysicalUnitsYDirection"]
)
def test_a_region_that_lacks_a_value(tmp_path, grey, lenient, name):
    for value in (None, ""):
        item = region(2, 1, 9, 6)
        item[name].value = value
        video = read.read_video(write(tmp_path / "a.dcm", grey, SequenceOfUltrasoundRegions=[item]))
        np.testing.assert_array_equal(video.frames, grey)
        assert np.isnan(video.pixel_spacing).all()
        assert video.region == (None if "Location" in name else (1, 2, 7, 10))


def test_the_first_plausible_rate_counts(tmp_path, grey):
    path = write(tmp_path / "a.dcm", grey, FrameTime="0.025", CineRate="30")
    assert read.read_video(path).fps == 30 and read.read_video(path).flags == ()


def test_times_between_frames(tmp_path, grey):
    video = read.read_video(write(tmp_path / "a.dcm", grey, FrameTime=None, FrameTimeVector=[0, 25, 1000]))
    np.testing.assert_allclose(video.frame_times, [0, 0.025, 1.025])
    assert video.fps == pytest.approx(40) and video.flags == ("irregular_frame_times",)
    video = read.read_video(write(tmp_path / "a.dcm", grey, FrameTime=None, FrameTimeVector=[0, 25]))
    assert video.frame_times is None and video.fps == pytest.approx(40)


@pytest.mark.parametrize("points_at,fps", [("FrameTime", 25), ("FrameTimeVector", 50), (None, 50)])
def test_the_header_may_say_which_of_two_times_counts(tmp_path, grey, points_at, fps):
    pointer = {} if points_at is None else {"FrameIncrementPointer": pydicom.datadict.tag_for_keyword(points_at)}
    path = write(tmp_path / "a.dcm", grey, FrameTime="40", FrameTimeVector=[0, 20, 20], **pointer)
    assert read.read_video(path).fps == pytest.approx(fps)
    path = write(tmp_path / "a.dcm", grey, FrameTime="0", FrameTimeVector=[0, 20, 20], **pointer)
    assert read.read_video(path).fps == pytest.approx(50)


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("lacks", ["preamble", "meta information", "transfer syntax"])
def test_files_without_their_beginning(tmp_path, grey, lacks, implicit):
    path = write(tmp_path / "a.dcm", grey)
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
    ds.save_as(path)
    data = path.read_bytes()
    first, name = data.index(b"\x08\x00\x16\x00") if b"\x08\x00\x16\x00" in data else None, b"\x02\x00\x10\x00UI"
    first = first or data.index(b"\x18\x00\x63\x10")
    place = data.index(name)
    (length,) = struct.unpack_from("<H", data, place + 6)
    cut = {
        "preamble": data[132:],
        "meta information": data[:132] + data[first:],
        "transfer syntax": data[:place] + data[place + 8 + length :],
    }[lacks]
    path.write_bytes(cut)
    video = read.read_video(path)
    np.testing.assert_array_equal(video.frames, grey)
    assert video.fps == 25


@pytest.mark.parametrize(
    "tags,aspect",
    [
        ({"PixelAspectRatio": ["11", "16"]}, 16 / 11),  # vertical size, horizontal size
        ({"NominalScannedPixelSpacing": ["0.2", "0.4"]}, 2.0),
        ({"PixelSpacing": ["0.4", "0.2"], "PixelAspectRatio": ["1", "1"]}, 0.5),
        ({"SequenceOfUltrasoundRegions": [region(2, 1, 9, 6)]}, 0.8),
    ],
)
def test_pixels_that_are_not_square(tmp_path, grey, tags, aspect):
    assert read.read_video(write(tmp_path / "a.dcm", grey, **tags)).pixel_aspect == pytest.approx(aspect)


def no_picture(form, kind, units=4):
    item = region(0, 0, 11, 7, kind=kind, units=units)
    item.RegionSpatialFormat = form
    return item


@pytest.mark.parametrize(
    "regions,words",
    [
        ([no_picture(3, 3)], "a spectral Doppler"),
        ([no_picture(3, 4)], "a spectral Doppler"),
        ([no_picture(2, 1)], "M-mode"),
        ([no_picture(4, 10), no_picture(3, 3)], "a spectral Doppler"),  # with an ECG
    ],
)
def test_a_spectrum_or_m_mode_is_no_clip(tmp_path, grey, regions, words):
    path = write(tmp_path / "a.dcm", grey, SequenceOfUltrasoundRegions=regions)
    with pytest.raises(NotAClip, match=f"a.dcm.*{words}"):
        read.read_video(path)


@pytest.mark.parametrize("kinds,flags", [((1,), ()), ((2,), ("colour_doppler",)), ((1, 2), ("colour_doppler",))])
def test_a_region_of_colour_flow_is_doppler_also_without_colour(tmp_path, grey, kinds, flags):
    regions = [region(0, 0, 11, 7, kind=kind) for kind in kinds]
    assert read.read_video(write(tmp_path / "a.dcm", grey, SequenceOfUltrasoundRegions=regions)).flags == flags


def test_a_picture_beside_a_spectrum_is_one_if_it_moves(tmp_path, grey):
    regions = [region(0, 0, 5, 7), no_picture(3, 3)]
    assert read.read_video(write(tmp_path / "a.dcm", grey, SequenceOfUltrasoundRegions=regions)).region == (0, 0, 8, 6)
    frozen = grey.copy()
    frozen[:, :, :6] = grey[0, :, :6]
    with pytest.raises(NotAClip, match="nothing in its picture moves"):
        read.read_video(write(tmp_path / "a.dcm", frozen, SequenceOfUltrasoundRegions=regions))


def test_an_ecg_alone_tells_nothing_of_the_picture(tmp_path, grey):
    path = write(tmp_path / "a.dcm", grey, SequenceOfUltrasoundRegions=[no_picture(4, 10)])
    assert len(read.read_video(path).frames) == 3


@pytest.mark.parametrize(
    "name,pixels,words",
    [
        ("EnhancedUSVolumeStorage", True, "three-dimensional"),
        ("CTImageStorage", True, "CT Image Storage"),
        ("ComprehensiveSRStorage", False, "Comprehensive SR"),
        ("MediaStorageDirectoryStorage", False, "Media Storage Directory"),
    ],
)
def test_objects_of_other_classes_are_no_clips(tmp_path, grey, name, pixels, words):
    tags = {"SOPClassUID": getattr(uid, name)} | ({} if pixels else {"PixelData": None})
    with pytest.raises(NotAClip, match=words):
        read.read_video(write(tmp_path / "a.dcm", grey, **tags))


@pytest.mark.parametrize(
    "name", ["UltrasoundMultiFrameImageStorage", "MultiFrameTrueColorSecondaryCaptureImageStorage"]
)
def test_an_ultrasound_object_without_pixels_is_damaged(tmp_path, grey, name):
    assert len(read.read_video(write(tmp_path / "a.dcm", grey, SOPClassUID=getattr(uid, name))).frames) == 3
    with pytest.raises(VideoError, match="no pixels; export it again") as error:
        read.read_video(write(tmp_path / "a.dcm", grey, SOPClassUID=getattr(uid, name), PixelData=None))
    assert not isinstance(error.value, NotAClip)


def test_a_makers_own_object_without_pixels_is_no_clip(tmp_path, grey):
    with pytest.raises(NotAClip, match="a maker's own class"):
        read.read_video(write(tmp_path / "a.dcm", grey, SOPClassUID="1.2.840.113543.6.6.1.3.10002", PixelData=None))


def test_what_a_damaged_bare_file_leaves_is_no_class_of_a_maker(tmp_path, grey):
    """Cut off, or damaged near its start: `skipped.csv` is for sound files."""
    data = write(tmp_path / "a.dcm", grey, SOPClassUID=uid.UltrasoundMultiFrameImageStorage).read_bytes()
    bare = data[data.index(b"\x08\x00\x16\x00") :]
    for content in (b"\x08\x00" + bytes(200), bare[:8] + b"\xff" * 200):
        (tmp_path / "b.dcm").write_bytes(content)
        with pytest.raises(VideoError, match="b.dcm.*copy it again") as error:
            read.read_video(tmp_path / "b.dcm")
        assert not isinstance(error.value, NotAClip)


@pytest.mark.parametrize("count", [1, 3])
def test_stills_are_no_clips(tmp_path, grey, count):
    path = write(tmp_path / "a.dcm", np.repeat(grey[:1], count, 0), NumberOfFrames=count)
    with pytest.raises(NotAClip, match="still"):
        read.read_video(path)


@pytest.mark.parametrize(
    "codec,container,syntax",
    [
        ("libx264", ".mp4", "MPEG4HP41"),
        ("mpeg2video", ".mpg", "MPEG2MPML"),
        ("libx264", ".mkv", "MPEG4HP41BD"),
        ("libx264", ".ts", "MPEG4HP41BD"),
        ("libx264", ".h264", "MPEG4HP41"),
    ],
)
def test_video_streams_in_an_object(tmp_path, codec, container, syntax):
    frames = moving_square(24, 96, 112)
    write_video(tmp_path / f"a{container}", frames, fps=25, codec=codec)
    stream = (tmp_path / f"a{container}").read_bytes()
    path = test_dicom.write(tmp_path / "a.dcm", "YBR_PARTIAL_420", b"\0" * 16, samples=3, Rows=96, Columns=112)
    ds = pydicom.dcmread(path)
    ds.NumberOfFrames, ds.FrameTime, ds.SequenceOfUltrasoundRegions = 24, "33.3", [region(2, 1, 90, 80)]
    ds.file_meta.TransferSyntaxUID = getattr(uid, syntax)
    ds.PixelData = encaps.encapsulate([stream], fragments_per_frame=3)
    ds["PixelData"].is_undefined_length = True
    ds.save_as(path, enforce_file_format=True)
    video = read.read_video(path)
    assert video.frames.shape == frames.shape and np.abs(video.frames.astype(int) - frames).mean() < 3
    assert video.fps == 25 and video.region == (1, 2, 81, 91)  # the stream's rate, which a player shows
    assert video.flags == ()
    (table,) = struct.unpack_from("<I", ds.PixelData, 4)
    ds.PixelData = ds.PixelData[8 + table :]  # as some writers do, who leave the table of offsets out
    ds.NumberOfFrames = 25
    ds.save_as(path, enforce_file_format=True)
    again = read.read_video(path)
    np.testing.assert_array_equal(again.frames, video.frames)
    assert again.flags == ("fewer_frames_than_declared",)
    ds.PixelData = encaps.encapsulate([b"no stream at all" * 20])
    ds.save_as(path, enforce_file_format=True)
    with pytest.raises(VideoError, match="a.dcm.*decoding failed"):
        read.read_video(path)


def test_numbers_of_the_wrong_length_are_unknown(tmp_path, grey):
    """Pydicom has an error of its own for these, raised when the value is asked for."""
    path = write(tmp_path / "a.dcm", grey, SequenceOfUltrasoundRegions=[region(2, 1, 9, 6)])
    data = path.read_bytes()
    place = data.index(b"\x18\x00\x18\x60UL\x04\x00")  # RegionLocationMinX0, four bytes
    assert struct.unpack_from("<I", data, place + 8) == (2,)
    cut = data[: place + 6] + struct.pack("<H", 2) + data[place + 8 : place + 10] + data[place + 12 :]
    sequence = data.index(b"\x18\x00\x11\x60SQ")  # undefined or known, its length and the item's
    for start in (sequence + 8, sequence + 16):
        (length,) = struct.unpack_from("<I", cut, start)
        if length != 2**32 - 1:
            cut = cut[:start] + struct.pack("<I", length - 2) + cut[start + 4 :]
    path.write_bytes(cut)
    video = read.read_video(path)
    np.testing.assert_array_equal(video.frames, grey)
    assert video.region is None


def test_fewer_pictures_than_frames(tmp_path, grey):
    path = write(tmp_path / "a.dcm", grey)
    ds = pydicom.dcmread(path)
    ds.compress(uid.RLELossless)
    pictures = list(encaps.generate_frames(ds.PixelData, number_of_frames=3))
    ds.PixelData = encaps.encapsulate(pictures[:2])
    ds.save_as(path)
    with pytest.raises(VideoError, match="2 of 3 frames|cannot be decoded"):
        read.read_video(path)
