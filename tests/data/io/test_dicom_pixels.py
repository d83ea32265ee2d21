"""What the samples of DICOM objects are: decided by codestreams, look-ups and the samples, not by a wrong header."""

import io
import struct
import sys
import types

import numpy as np
import pytest

from discovr_jax.data import read
from discovr_jax.data.io import dicom_codestream
from discovr_jax.data.io.video import VideoError
from tests.data.io import test_dicom

pydicom = pytest.importorskip("pydicom", reason="reading DICOM needs pydicom")
from pydicom import encaps, uid  # noqa: E402 (after the skip)

HEIGHT, WIDTH = 48, 64


@pytest.fixture
def grey():
    """uint8 [3, 48, 64]: a bright field with a dark disc that moves, black around it, the full range of levels."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    frames = np.zeros((3, HEIGHT, WIDTH))
    for number, frame in enumerate(frames):
        frame[:] = np.where((y - 24) ** 2 + (x - 24 - 6 * number) ** 2 < 90, 30, 60 + 3 * x)
        frame[:, :8] = 0
        frame[40:] = np.linspace(0, 255, WIDTH)
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


def write(path, kind, samples, **tags):
    many = samples.ndim == 4
    size = {"Rows": HEIGHT, "Columns": WIDTH, "NumberOfFrames": len(samples)}
    bits = 8 * samples.itemsize
    depth = {"BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1}
    tags = size | depth | {"PixelRepresentation": int(samples.dtype.kind == "i")} | tags
    return test_dicom.write(path, kind, samples.tobytes(), samples=3 if many else 1, **tags)


def compress(path, pictures, syntax):
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encaps.encapsulate(pictures)
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.save_as(path, enforce_file_format=True)
    return path


def jpeg(picture, **how):
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=95, **how)
    return out.getvalue()


def without(data, *markers):
    """A JPEG without the segments of these markers."""
    out, place = bytearray(data[:2]), 2
    while data[place + 1] != 0xDA:
        length = 2 + struct.unpack_from(">H", data, place + 2)[0]
        out += b"" if data[place + 1] in markers else data[place : place + length]
        place += length
    return bytes(out + data[place:])


def adobe(transform):
    return b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])


STREAMS = {  # what the codestream says; its pixels are YCbCr, or RGB where the name says so
    "JFIF": lambda rgb: jpeg(rgb),
    "JFIF, full chroma": lambda rgb: jpeg(rgb, subsampling=0),
    "Adobe says YCbCr": lambda rgb: (lambda d: d[:2] + adobe(1) + d[2:])(without(jpeg(rgb, subsampling=0), 0xE0)),
    "no marker, subsampled": lambda rgb: without(jpeg(rgb), 0xE0),
    "no marker, grey": lambda rgb: without(jpeg(rgb, subsampling=0), 0xE0),
    "Adobe says RGB": lambda rgb: jpeg(rgb, keep_rgb=True),
    "named R, G, B": lambda rgb: without(jpeg(rgb, keep_rgb=True), 0xEE),
}


@pytest.mark.parametrize("label", ["RGB", "YBR_FULL_422", "YBR_FULL"])
@pytest.mark.parametrize("stream", STREAMS)
def test_the_codestream_of_a_jpeg_decides_its_colour_space(tmp_path, grey, stream, label):
    rgb = np.repeat(grey[..., None], 3, -1)
    path = write(tmp_path / "a.dcm", label, rgb)
    video = read.read_video(compress(path, [STREAMS[stream](frame) for frame in rgb], uid.JPEGBaseline8Bit))
    assert np.abs(video.frames.astype(int) - grey).mean() < 2
    assert video.colour is None or (video.colour >= 80).mean() < 0.001


@pytest.mark.parametrize("label,stored", [("RGB", "YBR_FULL"), ("YBR_FULL", "RGB")])
def test_planes_that_are_plainly_of_the_other_colour_space(tmp_path, grey, label, stored):
    planes = [grey, np.full_like(grey, 128), np.full_like(grey, 128)] if stored == "YBR_FULL" else [grey] * 3
    video = read.read_video(write(tmp_path / "a.dcm", label, np.stack(planes, -1)))
    np.testing.assert_array_equal(video.frames, grey)
    assert video.colour is None


def test_a_jpeg_of_one_component_labelled_rgb(tmp_path, grey):
    path = write(tmp_path / "a.dcm", "RGB", np.repeat(grey[..., None], 3, -1))
    video = read.read_video(compress(path, [jpeg(frame) for frame in grey], uid.JPEGBaseline8Bit))
    assert np.abs(video.frames.astype(int) - grey).mean() < 2


def test_what_codestreams_say_of_themselves(grey):
    rgb = np.repeat(grey[0][..., None], 3, -1)
    found = dicom_codestream.parse(jpeg(rgb))
    assert (found.height, found.width, found.components, found.precision, found.space) == (48, 64, 3, 8, "YBR")
    assert dicom_codestream.parse(jpeg(rgb, keep_rgb=True)).space == "RGB"
    ds = pydicom.dcmread(pydicom.data.get_testdata_file("SC_rgb_gdcm_KY.dcm"))
    found = dicom_codestream.parse(next(encaps.generate_frames(ds.PixelData, number_of_frames=1)))
    assert (found.height, found.width, found.components, found.precision) == (100, 100, 3, 8)
    data = jpeg(rgb)
    for end in range(len(data)):
        assert dicom_codestream.parse(data[:end]) in (None, dicom_codestream.parse(data))
    assert dicom_codestream.parse(b"\xff\xd8\xff") is None and dicom_codestream.parse(b"\xff\x4f\xff\x51\0") is None


def sequence(first, depth, table):
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "US", [len(table), first, depth])
    item.add_new("LUTData", "US", [int(value) for value in table])
    return [item]


def wide(grey):
    """Name: the samples, the tags, and how many levels a rounding may be off."""
    signed = grey.astype(np.int16) - 128
    u16 = grey.astype(np.uint16)
    linear = {"WindowCenter": "128", "WindowWidth": "256"}
    table = np.arange(256) ** 2 // 255
    return {
        "16 bits with a window": (u16, linear, 0),
        "16 bits filled to 255, no window": (u16, {}, 0),
        "16 bits filled to 4095": (u16 * 16, {}, 1),
        "12 of 16 bits": (u16 * 16, {"BitsStored": 12, "HighBit": 11}, 1),
        "12 bits at the top of 16": (u16 * 256, {"BitsStored": 12, "HighBit": 15}, 1),
        "8 bits said, 12 used": (u16 * 16, {"BitsStored": 8, "HighBit": 7}, 1),
        "signed, 8 bits": (signed.astype(np.int8), {}, 0),
        "signed, 16 bits filled to 8": (signed, {}, 0),
        "signed type, no negative number": (grey.astype(np.int16), {}, 0),
        "signed, 12 bits, rescaled": (
            signed * 16, {"BitsStored": 12, "HighBit": 11, "RescaleSlope": "1", "RescaleIntercept": "2048"}, 1,
        ),
        "signed, 12 bits, sign not carried on": (
            (signed * 16) & 0xFFF, {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1}, 1,
        ),
        "rescaled, with a window": (
            u16, {"RescaleSlope": "2", "RescaleIntercept": "-100", "WindowCenter": "155.5", "WindowWidth": "511"}, 1,
        ),
        "LINEAR_EXACT": (u16, {"WindowCenter": "127.5", "WindowWidth": "255", "VOILUTFunction": "LINEAR_EXACT"}, 0),
        "several windows, the first counts": (u16, {"WindowCenter": ["128", "40"], "WindowWidth": ["256", "80"]}, 0),
        "a window of no width": (u16, {"WindowCenter": "128", "WindowWidth": "0"}, 0),
        "a window that shows nothing": (u16, {"WindowCenter": "40000", "WindowWidth": "100"}, 0),
        "a window that cannot be read": (u16, {"WindowCenter": "128", "WindowWidth": None}, 0),
        "a VOI table": (np.sqrt(u16 * 255.0).round().astype(np.uint16), {"VOILUTSequence": sequence(0, 16, table)}, 2),
        "a modality table": (255 - u16, {"ModalityLUTSequence": sequence(0, 16, np.arange(256)[::-1])}, 0),
    }  # fmt: skip


@pytest.mark.parametrize("kind", wide(np.zeros((3, HEIGHT, WIDTH), np.uint8)))
def test_grey_of_any_depth_and_sign_has_the_full_range(tmp_path, grey, kind):
    samples, tags, off = wide(grey)[kind]
    tags = {name: value for name, value in tags.items() if value is not None}
    frames = read.read_video(write(tmp_path / "a.dcm", "MONOCHROME2", samples, **tags)).frames
    assert np.abs(frames.astype(int) - grey).max() <= off
    inverted = read.read_video(write(tmp_path / "b.dcm", "MONOCHROME1", samples, **tags)).frames
    np.testing.assert_array_equal(inverted, 255 - frames)


def test_a_window_cuts_as_the_standard_says(tmp_path, grey):
    """PS3.3 C.11.2.1.2.1: center 100, width 51: black up to 74.5, white above 124.5, linear between."""
    path = write(tmp_path / "a.dcm", "MONOCHROME2", grey, WindowCenter="100", WindowWidth="51")
    frames = read.read_video(path).frames
    expected = np.clip(((grey - 99.5) / 50 + 0.5) * 255, 0, 255)
    assert np.abs(frames - expected).max() <= 0.5


def test_odd_depths_and_windows_are_flagged(tmp_path, grey):
    u16 = grey.astype(np.uint16)
    flags = read.read_video(write(tmp_path / "a.dcm", "MONOCHROME2", u16)).flags
    assert flags == ("bits_unlike_header",)
    for center, width in (("9999", "2"), ("2048", "4096")):  # the second is of 12 bits: it would leave 16 grey levels
        path = write(tmp_path / "a.dcm", "MONOCHROME2", grey, WindowCenter=center, WindowWidth=width)
        video = read.read_video(path)
        assert video.flags == ("implausible_window",)
        np.testing.assert_array_equal(video.frames, grey)


def test_colour_of_sixteen_bits(tmp_path, grey):
    rgb = np.repeat(grey[..., None], 3, -1).astype(np.uint16) * 257
    video = read.read_video(write(tmp_path / "a.dcm", "RGB", rgb))
    assert np.abs(video.frames.astype(int) - grey).max() <= 1 and video.colour is None


@pytest.mark.parametrize("entries", [256, 255])  # 255 bytes are filled to 256
@pytest.mark.parametrize("said,depth,factor", [(16, 16, 1), (16, 16, 257), (8, 8, 1), (16, 8, 1)])
@pytest.mark.parametrize("order", "<>")
def test_a_palette_has_the_depth_that_is_used(tmp_path, grey, said, depth, factor, order, entries):
    grey = np.minimum(grey, entries - 1)
    table = (np.arange(256) * factor).astype(f"{order}u{depth // 8}")
    if depth == 8 and order == ">":
        table = table.view("<u2").byteswap()  # OW: two entries a word
    tags = {}
    for name in ("Red", "Green", "Blue"):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [entries, 0, said]
        tags[f"{name}PaletteColorLookupTableData"] = table.tobytes()
    path = write(tmp_path / "a.dcm", "PALETTE COLOR", grey, **tags)
    if order == ">":
        ds = pydicom.dcmread(path)
        ds.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
        ds["PixelData"].VR = "OB"
        pydicom.dcmwrite(path, ds, force_encoding=True, little_endian=False, implicit_vr=False)
    video = read.read_video(path)
    np.testing.assert_array_equal(video.frames, grey)
    assert video.colour is None


def test_pydicoms_own_words_say_cause_and_remedy(tmp_path, grey):
    rgb = np.repeat(grey[..., None], 3, -1)
    path = write(tmp_path / "a.dcm", "YBR_FULL_422", rgb)  # three bytes per pixel, not two
    with pytest.raises(VideoError, match="a.dcm.*third larger than expected.*Photometric") as error:
        read.read_video(path)
    assert "copy it again" not in str(error.value) and "decoder" not in str(error.value)


def jpeg_xl(path, samples, pictures, number):
    """An object of a transfer syntax that pydicom does not know, and would not write."""
    compress(write(path, "MONOCHROME2", samples), pictures, uid.HTJ2KLossless)
    data = path.read_bytes()
    assert data.count(b"1.2.840.10008.1.2.4.201") == 1
    path.write_bytes(data.replace(b"1.2.840.10008.1.2.4.201", b"1.2.840.10008.1.2.4." + number))
    return path


def test_jpeg_xl_names_what_to_install(tmp_path, grey, monkeypatch):
    path = jpeg_xl(tmp_path / "a.dcm", grey, [b"\xff\x0a" + bytes(20)] * 3, b"110")
    for name in ("imagecodecs", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(VideoError, match="JPEG XL.*pip install imagecodecs"):
        read.read_video(path)


def test_jpeg_xl_is_decoded_by_what_is_installed(tmp_path, grey, monkeypatch):
    decoder = types.SimpleNamespace(jpegxl_decode=lambda data: grey[data[2]])
    monkeypatch.setitem(sys.modules, "imagecodecs", decoder)
    path = jpeg_xl(tmp_path / "a.dcm", grey, [b"\xff\x0a" + bytes([number, 0]) for number in range(3)], b"111")
    np.testing.assert_array_equal(read.read_video(path).frames, grey)


def test_pictures_of_different_sizes_are_named(tmp_path, grey, monkeypatch):
    decoder = types.SimpleNamespace(jpegxl_decode=lambda data: grey[data[2], : HEIGHT - data[2]])
    monkeypatch.setitem(sys.modules, "imagecodecs", decoder)
    path = jpeg_xl(tmp_path / "a.dcm", grey, [b"\xff\x0a" + bytes([number, 0]) for number in range(3)], b"111")
    with pytest.raises(VideoError, match=r"a.dcm: frame 1 is \(47, 64\), frame 0 is \(48, 64\)"):
        read.read_video(path)


@pytest.mark.parametrize("dtype,carried", [(np.uint16, False), (np.int16, False), (np.int16, True)])
@pytest.mark.parametrize("bits,overlay", [(8, 8), (12, 12), (12, 15)])
def test_an_overlay_in_the_bits_above_is_no_part_of_the_samples(tmp_path, grey, bits, overlay, dtype, carried):
    """PS3.5 8.1.2, retired, but what old scanners wrote is still there; some carry the sign on around the drawing."""
    samples = (grey.astype(np.int16) - (128 if dtype == np.int16 else 0)) * 2 ** (bits - 8)
    drawn = (np.random.default_rng(0).random(grey.shape) > 0.9).astype(np.uint16)
    above = samples.astype(np.uint16) & ~np.uint16(2**bits - 1 | 1 << overlay) if carried else 0
    samples = samples.astype(np.uint16) & np.uint16(2**bits - 1) | above | drawn << overlay
    path = write(tmp_path / "a.dcm", "MONOCHROME2", samples.view(dtype), BitsStored=bits, HighBit=bits - 1)
    ds = pydicom.dcmread(path)
    ds.add_new(0x60020102, "US", overlay)
    ds.save_as(path)
    video = read.read_video(path)
    assert np.abs(video.frames.astype(int) - grey).max() <= 1 and video.flags == ()


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("padding", [-2000, 30_000])
def test_what_pads_a_picture_is_black_and_does_not_darken_it(tmp_path, grey, kind, padding):
    samples = (255 - grey if kind == "MONOCHROME1" else grey).astype(np.int16)
    samples[:, :, :8] = padding
    path = write(tmp_path / "a.dcm", kind, samples, PixelPaddingValue=padding)
    grey[:, :, :8] = 0
    np.testing.assert_array_equal(read.read_video(path).frames, grey)


def test_a_table_that_is_too_short_is_passed_over(tmp_path, grey):
    for name in ("VOILUTSequence", "ModalityLUTSequence"):
        items = sequence(0, 16, np.arange(100))
        items[0].LUTDescriptor = [256, 0, 16]
        path = write(tmp_path / "a.dcm", "MONOCHROME2", grey, **{name: items})
        np.testing.assert_array_equal(read.read_video(path).frames, grey)


def test_a_table_that_pydicom_cannot_apply_is_the_file_s_fault(tmp_path, grey):
    """Of entries of 12 bits, which a modality table cannot have: pydicom's TypeError."""
    tags = {"ModalityLUTSequence": sequence(0, 12, np.arange(256))}
    with pytest.raises(VideoError, match="cannot be decoded"):
        read.read_video(write(tmp_path / "a.dcm", "MONOCHROME2", grey, **tags))


@pytest.mark.parametrize("length", [None, 200, 400, 510])
def test_a_palette_that_is_not_whole_is_named(tmp_path, grey, length):
    tags = {}
    for name in ("Red", "Green", "Blue"):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tags[f"{name}PaletteColorLookupTableData"] = bytes(length or 512)
    if length is None:
        del tags["RedPaletteColorLookupTableData"]
    with pytest.raises(VideoError, match="RedPaletteColorLookupTableData is missing, or shorter"):
        read.read_video(write(tmp_path / "a.dcm", "PALETTE COLOR", grey, **tags))


def test_a_slope_of_a_damaged_kind_is_the_number_that_it_holds(tmp_path, grey):
    """Another value representation: of a name (PN) no arithmetic can be done, as pydicom would."""
    path = write(tmp_path / "a.dcm", "MONOCHROME2", grey, RescaleSlope="2", RescaleIntercept="0")
    data = path.read_bytes()
    assert data.count(b"\x28\x00\x53\x10DS") == 1
    path.write_bytes(data.replace(b"\x28\x00\x53\x10DS", b"\x28\x00\x53\x10PN"))
    np.testing.assert_array_equal(read.read_video(path).frames, grey)


@pytest.mark.parametrize("colour", ["Red", "Green", "Blue"])
@pytest.mark.parametrize("segmented", ["", "Segmented"])
@pytest.mark.parametrize("bits", [0, 12, 65296])
def test_a_palette_of_a_depth_that_there_is_not_is_named(tmp_path, grey, colour, segmented, bits):
    tags = {}
    for name in ("Red", "Green", "Blue"):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, bits if name == colour else 16]
        tags[f"{segmented}{name}PaletteColorLookupTableData"] = bytes(512)
    with pytest.raises(VideoError, match=f"cannot be decoded: {colour}.*Descriptor says .* {bits} bits, not 8 or 16"):
        read.read_video(write(tmp_path / "a.dcm", "PALETTE COLOR", grey, **tags))


def test_palettes_of_different_lengths_are_refused(tmp_path, grey):
    tags = {}
    for name, entries in (("Red", 256), ("Green", 100), ("Blue", 256)):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [entries, 0, 16]
        tags[f"{name}PaletteColorLookupTableData"] = bytes(2 * entries)
    with pytest.raises(VideoError, match=r"cannot be decoded: its palettes have \[200, 512\] bytes"):
        read.read_video(write(tmp_path / "a.dcm", "PALETTE COLOR", grey, **tags))
