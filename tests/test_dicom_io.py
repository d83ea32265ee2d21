"""DICOM objects made here, one of each photometric interpretation, and pydicom's own echocardiogram."""

import numpy as np
import pytest

from discovr_jax.data import dicom_io, video_io

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
    video = video_io.read_video(write(tmp_path / "a.dcm", "MONOCHROME2", grey.tobytes()))
    np.testing.assert_array_equal(video.frames, grey)
    assert video.frames.dtype == np.uint8
    assert video.fps == 25


def test_inverted_grey(tmp_path, grey):
    path = write(tmp_path / "a.dcm", "MONOCHROME1", grey.tobytes())
    np.testing.assert_array_equal(video_io.read_video(path).frames, 255 - grey)


def test_grey_of_twelve_bits_is_scaled_to_eight(tmp_path, grey):
    wide = grey.astype(np.uint16) * 16
    path = write(tmp_path / "a.dcm", "MONOCHROME2", wide.tobytes(), bits=12)
    assert np.abs(video_io.read_video(path).frames.astype(int) - grey).max() <= 1


def test_colour_becomes_luma(tmp_path):
    rgb = np.random.default_rng(1).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    path = write(tmp_path / "a.dcm", "RGB", rgb.tobytes(), samples=3)
    expected = np.rint(0.299 * rgb[..., 0] + 0.587 * rgb[..., 1] + 0.114 * rgb[..., 2])
    assert np.abs(video_io.read_video(path).frames - expected).max() <= 1


def test_luma_is_taken_as_it_is_stored(tmp_path, grey):
    ybr = np.stack([grey, np.full_like(grey, 30), np.full_like(grey, 220)], -1)  # far from grey
    path = write(tmp_path / "a.dcm", "YBR_FULL", ybr.tobytes(), samples=3)
    np.testing.assert_array_equal(video_io.read_video(path).frames, grey)


def test_luma_of_subsampled_colour(tmp_path, grey):
    # Uncompressed 4:2:2 stores Y0 Y1 Cb Cr for every two pixels.
    pairs = grey.reshape(-1, 2)
    stored = np.concatenate([pairs, np.full_like(pairs, 90)], axis=1)
    path = write(tmp_path / "a.dcm", "YBR_FULL_422", stored.tobytes(), samples=3)
    np.testing.assert_array_equal(video_io.read_video(path).frames, grey)


def test_real_echocardiogram_in_jpeg():
    video = dicom_io.read_dicom(examples.get_path("ybr_color"))
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
    np.testing.assert_equal(video_io.read_video(path).fps, fps)


def test_nothing_that_names_a_patient_is_read(tmp_path, grey, monkeypatch):
    path = write(tmp_path / "a.dcm", "MONOCHROME2", grey.tobytes())
    seen = []
    dcmread = pydicom.dcmread

    def spy(*args, **kwargs):
        seen.append(dcmread(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(pydicom, "dcmread", spy)
    video_io.read_video(path)
    names = {element.keyword for element in seen[0]} - {"SpecificCharacterSet"}
    assert names <= set(dicom_io.TAGS)


@pytest.mark.parametrize("damage", ["text", "cut", "no pixels", "palette", "jpeg"])
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
    else:
        ds = pydicom.dcmread(path)
        ds.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
        ds.PixelData = encaps.encapsulate([b"no picture"] * FRAMES)
        ds["PixelData"].is_undefined_length = True
        ds.save_as(path, enforce_file_format=True)
    with pytest.raises(video_io.VideoError, match="a.dcm") as caught:
        video_io.read_video(path)
    assert "secret" not in str(caught.value) and "Doe" not in str(caught.value)


def test_magic(tmp_path, grey):
    assert dicom_io.is_dicom(write(tmp_path / "a", "MONOCHROME2", grey.tobytes()))
    (tmp_path / "b").write_bytes(b"short")
    assert not dicom_io.is_dicom(tmp_path / "b")
