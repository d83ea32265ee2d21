"""DICOM objects made here, one of each photometric interpretation, and pydicom's own echocardiogram."""

import numpy as np
import pytest

from discovr_jax.data import read
from discovr_jax.data.io import dicom, dicom_pixels
from discovr_jax.data.io.video import VideoError

pydicom = pytest.importorskip("pydicom", reason="reading DICOM needs pydicom")
from pydicom import encaps, examples, uid  # noqa: E402 (after the skip)

FRAMES, HEIGHT, WIDTH = 3, 8, 12


@pytest.fixture
def grey():
    """uint8 [T, H, W]."""
    return np.random.default_rng(0).integers(0, 256, (FRAMES, HEIGHT, WIDTH), dtype=np.uint8)


def write(path, kind, pixels, bits=8, samples=1, **tags):
    """A multi-frame object; `pixels` are the bytes of its pixel data."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = uid.UltrasoundMultiFrameImageStorage
    meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds = pydicom.Dataset()
    ds.file_meta = meta
    ds.PatientName, ds.PatientID = "Doe^Jane", "secret-4711"
    ds.NumberOfFrames, ds.Rows, ds.Columns = FRAMES, HEIGHT, WIDTH
    ds.SamplesPerPixel, ds.PhotometricInterpretation = samples, kind
    if samples > 1:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = 8 if bits == 8 else 16
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits - 1, 0
    ds.FrameTime = "40"
    ds.PixelData = pixels
    for name, value in tags.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    ds.save_as(path, enforce_file_format=True)
    return path


def test_grey_is_itself(tmp_path, grey):
    video = read.read_video(write(tmp_path / "a.dcm", "MONOCHROME2", grey.tobytes()))
    np.testing.assert_array_equal(video.frames, grey)
    assert video.frames.dtype == np.uint8
    assert video.fps == 25


def test_inverted_grey(tmp_path, grey):
    path = write(tmp_path / "a.dcm", "MONOCHROME1", grey.tobytes())
    np.testing.assert_array_equal(read.read_video(path).frames, 255 - grey)


def test_grey_of_twelve_bits_is_scaled_to_eight(tmp_path, grey):
    wide = grey.astype(np.uint16) * 16
    path = write(tmp_path / "a.dcm", "MONOCHROME2", wide.tobytes(), bits=12)
    assert np.abs(read.read_video(path).frames.astype(int) - grey).max() <= 1


def test_colour_becomes_luma(tmp_path):
    rgb = np.random.default_rng(1).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    path = write(tmp_path / "a.dcm", "RGB", rgb.tobytes(), samples=3)
    expected = np.rint(0.299 * rgb[..., 0] + 0.587 * rgb[..., 1] + 0.114 * rgb[..., 2])
    assert np.abs(read.read_video(path).frames - expected).max() <= 1


def test_luma_is_taken_as_it_is_stored(tmp_path, grey):
    ybr = np.stack([grey, np.full_like(grey, 30), np.full_like(grey, 220)], -1)  # far from grey
    path = write(tmp_path / "a.dcm", "YBR_FULL", ybr.tobytes(), samples=3)
    np.testing.assert_array_equal(read.read_video(path).frames, grey)


def test_luma_of_subsampled_colour(tmp_path, grey):
    # Uncompressed 4:2:2 stores Y0 Y1 Cb Cr for every two pixels.
    pairs = grey.reshape(-1, 2)
    stored = np.concatenate([pairs, np.full_like(pairs, 90)], axis=1)
    path = write(tmp_path / "a.dcm", "YBR_FULL_422", stored.tobytes(), samples=3)
    np.testing.assert_array_equal(read.read_video(path).frames, grey)


def test_real_echocardiogram_in_jpeg():
    video = read.read_video(examples.get_path("ybr_color"))
    assert video.frames.shape == (30, 240, 320)
    assert video.fps == pytest.approx(30, abs=0.01)
    rgb = examples.ybr_color.pixel_array.astype(np.float32)  # pydicom's own conversion
    luma = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    assert np.abs(video.frames - luma).mean() < 0.1
    assert video.frames.std() > 20


@pytest.mark.parametrize(
    ("tags", "fps"),
    [
        ({"FrameTime": None, "CineRate": "24"}, 24),
        ({"FrameTime": None, "RecommendedDisplayFrameRate": "12"}, 12),
        ({"FrameTime": None, "FrameTimeVector": [0, 20, 30]}, 40),
        ({"FrameTime": None}, np.nan),
    ],
)
def test_frame_rate(tmp_path, grey, tags, fps):
    path = write(tmp_path / "a.dcm", "MONOCHROME2", grey.tobytes(), **tags)
    np.testing.assert_equal(read.read_video(path).fps, fps)


def test_nothing_that_names_a_patient_is_read(tmp_path, grey, monkeypatch):
    path = write(tmp_path / "a.dcm", "MONOCHROME2", grey.tobytes())
    seen = []
    dcmread = pydicom.dcmread

    def spy(*args, **kwargs):
        seen.append(dcmread(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(pydicom, "dcmread", spy)
    read.read_video(path)
    names = {element.keyword for element in seen[0]} - {"SpecificCharacterSet"}
    assert names <= set(dicom.TAGS)


def test_palette(tmp_path):
    """Two colours of 16 bits: index 0 is a red, index 1 a grey."""
    indices = np.random.default_rng(2).integers(0, 2, (FRAMES, HEIGHT, WIDTH), dtype=np.uint8)
    tags = {}
    for name, first in (("Red", 200), ("Green", 0), ("Blue", 0)):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [2, 0, 16]
        tags[f"{name}PaletteColorLookupTableData"] = np.array([first * 257, 90 * 257], "<u2").tobytes()
    video = read.read_video(write(tmp_path / "a.dcm", "PALETTE COLOR", indices.tobytes(), **tags))
    np.testing.assert_array_equal(video.frames, np.where(indices == 0, 60, 90))  # 0.299 * 200
    np.testing.assert_array_equal(video.colour, np.where(indices == 0, 200, 0))


def test_distance_from_grey(tmp_path, grey):
    rgb = np.full((FRAMES, HEIGHT, WIDTH, 3), 70, np.uint8)
    rgb[2] = 90
    rgb[1, 2, 3] = 240, 30, 100
    colour = read.read_video(write(tmp_path / "a.dcm", "RGB", rgb.tobytes(), samples=3)).colour
    assert colour[1, 2, 3] == 210 and np.count_nonzero(colour) == 1
    ybr = np.stack([grey, np.full_like(grey, 128), np.full_like(grey, 178)], -1)
    colour = read.read_video(write(tmp_path / "b.dcm", "YBR_FULL", ybr.tobytes(), samples=3)).colour
    assert (colour == 106).all()  # 50 * (1.402 + 0.714)
    assert read.read_video(write(tmp_path / "c.dcm", "MONOCHROME2", grey.tobytes())).colour is None


def region(x0, y0, x1, y1, *, kind=1, units=3, delta=(0.04, 0.05)):
    item = pydicom.Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = 1, kind, 0
    item.RegionLocationMinX0, item.RegionLocationMinY0 = x0, y0
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = x1, y1
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = units
    item.PhysicalDeltaX, item.PhysicalDeltaY = delta
    return item


@pytest.mark.parametrize(
    ("regions", "spacing", "box"),
    [
        ([region(2, 1, 9, 6)], (0.5, 0.4), (1, 2, 7, 10)),
        ([region(0, 0, 3, 3), region(2, 1, 9, 6, delta=(0.06, -0.07))], (0.7, 0.6), (1, 2, 7, 10)),
        ([region(0, 0, 11, 7, kind=3), region(2, 1, 9, 6)], (0.5, 0.4), (1, 2, 7, 10)),  # 3 is a spectrum
        ([region(2, 1, 12, 8)], (0.5, 0.4), (1, 2, 8, 12)),  # one too far, as some scanners write
        ([region(4, 2, 19, 12)], None, None),  # written before the frames were resized
        ([region(2, 1, 9, 6, units=4)], None, (1, 2, 7, 10)),  # 4 is seconds
        ([region(2, 1, 9, 6, delta=(0.0, 0.05))], None, (1, 2, 7, 10)),
        ([], None, None),
    ],
)
def test_spacing_and_region(tmp_path, grey, regions, spacing, box):
    path = write(tmp_path / "a.dcm", "MONOCHROME2", grey.tobytes(), SequenceOfUltrasoundRegions=regions)
    video = read.read_video(path)
    assert video.region == box
    assert video.pixel_spacing == pytest.approx(spacing or (np.nan, np.nan), nan_ok=True)


def test_spacing_without_regions(tmp_path, grey):
    path = write(tmp_path / "a.dcm", "MONOCHROME2", grey.tobytes(), PixelSpacing=[0.3, 0.2])
    assert read.read_video(path).pixel_spacing == pytest.approx((0.3, 0.2))


def test_the_region_of_the_real_echocardiogram_was_written_before_it_was_halved():
    video = read.read_video(examples.get_path("ybr_color"))
    assert video.region is None and np.isnan(video.pixel_spacing).all()


SAME_PICTURE = {  # pydicom's test files: one picture in many transfer syntaxes, and how far from it they are
    "SC_rgb_jpeg_gdcm.dcm": ("JPEGLosslessSV1", 0),
    "SC_rgb_jls_lossy_line.dcm": ("JPEGLSNearLossless", 8),
    "SC_rgb_gdcm_KY.dcm": ("JPEG2000", 3),
    "SC_rgb_dcmtk_+eb+cr.dcm": ("JPEGBaseline8Bit", 3),
    "SC_rgb_dcmtk_+eb+cy+np.dcm": ("JPEGBaseline8Bit", 3),
}


@pytest.mark.parametrize("name", SAME_PICTURE)
def test_compressed_transfer_syntaxes(tmp_path, name):
    syntax, tolerance = SAME_PICTURE[name]
    truth = pydicom.dcmread(pydicom.data.get_testdata_file("SC_rgb_rle.dcm")).pixel_array
    ds = pydicom.dcmread(pydicom.data.get_testdata_file(name))
    assert ds.file_meta.TransferSyntaxUID.keyword == syntax
    (frame,) = encaps.generate_frames(ds.PixelData, number_of_frames=1)
    ds.PixelData, ds.NumberOfFrames = encaps.encapsulate([frame, frame]), 2
    ds["PixelData"].is_undefined_length = True
    ds.save_as(tmp_path / "a.dcm")
    frames = read.READERS[".dcm"](tmp_path / "a.dcm").frames  # a still twice, which `read_video` refuses
    luma = np.rint(truth @ np.array([0.299, 0.587, 0.114]))
    assert frames.shape == (2, 100, 100)
    away = np.abs(frames - luma)
    assert away.mean() <= tolerance if tolerance else away.max() <= 1


@pytest.mark.parametrize("plugin", dicom_pixels.DECODERS)
def test_the_decoders_that_are_named_are_installed(plugin):
    for name in dicom_pixels.DECODERS[plugin]:
        syntax = getattr(uid, name)
        assert plugin in pydicom.pixels.get_decoder(syntax).available_plugins
        ds = pydicom.Dataset()
        ds.file_meta = pydicom.dataset.FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = syntax
        assert dicom_pixels._plugin(ds) == plugin


def test_run_length_encoding():
    path = pydicom.data.get_testdata_file("SC_rgb_rle_2frame.dcm")
    luma = np.rint(pydicom.dcmread(path).pixel_array @ np.array([0.299, 0.587, 0.114]))
    assert np.abs(read.read_video(path).frames - luma).max() <= 1


@pytest.mark.parametrize("damage", ["text", "cut", "no pixels", "palette", "jpeg", "still", "absurd", "unknown"])
def test_damaged_files_are_refused_without_quoting_the_header(tmp_path, grey, damage):
    path = write(tmp_path / "a.dcm", "MONOCHROME2", grey.tobytes())
    if damage == "text":
        path.write_bytes(b"secret-4711" * 100)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "no pixels":
        write(path, "MONOCHROME2", grey.tobytes(), PixelData=None)
    elif damage == "palette":
        write(path, "PALETTE COLOR", grey.tobytes())
    elif damage == "still":
        write(path, "MONOCHROME2", grey[0].tobytes(), NumberOfFrames=None)
    elif damage == "absurd":
        write(path, "MONOCHROME2", grey.tobytes(), NumberOfFrames=2**31 - 1)
    elif damage == "unknown":
        write(path, "DOE SECRET", grey.tobytes())
    else:
        ds = pydicom.dcmread(path)
        ds.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
        ds.PixelData = encaps.encapsulate([b"no picture"] * FRAMES)
        ds["PixelData"].is_undefined_length = True
        ds.save_as(path, enforce_file_format=True)
    with pytest.raises(VideoError, match="a.dcm") as caught:
        read.read_video(path)
    assert not any(word in str(caught.value).lower() for word in ("secret", "doe"))
    if damage in ("still", "absurd"):
        assert {"still": "a still", "absurd": "no echocardiogram"}[damage] in str(caught.value)


@pytest.mark.parametrize(
    "ours",
    ["dicom._meta", "dicom_values.no_picture", "dicom_frames._complete", "dicom_grey._stored_range", "colour.luma"],
)
def test_an_error_of_ours_is_not_told_of_the_file(tmp_path, grey, monkeypatch, ours):
    """Also one of a kind that pydicom raises for damaged files."""

    def broken(*args):
        raise ValueError("secret-4711")

    module, name = ours.split(".")
    monkeypatch.setattr(f"discovr_jax.data.{'' if module == 'colour' else 'io.'}{ours}", broken)
    rgb = np.repeat(grey[..., None], 3, -1)
    path = write(tmp_path / "a.dcm", "MONOCHROME2", grey.tobytes())
    if module == "colour":
        write(path, "RGB", rgb.tobytes(), samples=3)
    with pytest.raises(VideoError, match=r"a.dcm: an error inside the program.*ValueError at .*test_dicom\.py"):
        read.read_video(path)


@pytest.mark.parametrize("name", ["IM0001", "1.2.840.113619.2", "clip.dcm"])
def test_dicom_is_known_by_its_content(tmp_path, grey, name):
    path = write(tmp_path / name, "MONOCHROME2", grey.tobytes())
    assert read.format_of(path) == ".dcm"
    np.testing.assert_array_equal(read.read_video(path).frames, grey)


def test_other_files_without_suffix_are_not(tmp_path):
    (tmp_path / "b").write_bytes(b"short")
    assert read.format_of(tmp_path / "b") is None
