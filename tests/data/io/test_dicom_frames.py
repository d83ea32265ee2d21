"""How pixel data lie in a DICOM object: what they show of themselves, where a header or an offset table is wrong."""

import io
import struct

import numpy as np
import pytest

from discovr_jax.data import read
from discovr_jax.data.io import dicom_codestream
from discovr_jax.data.io.video import NotAClip, VideoError
from tests.data.io import test_dicom

pydicom = pytest.importorskip("pydicom", reason="reading DICOM needs pydicom")
from pydicom import encaps, uid  # noqa: E402 (after the skip)

FRAMES, HEIGHT, WIDTH = 5, 32, 40  # five: more than another depth or colour would explain
ITEM, END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0\0\0\0\0"


@pytest.fixture
def grey():
    """uint8 [5, 32, 40]: a bright field with a dark block that moves."""
    frames = np.tile(np.linspace(40, 240, WIDTH).astype(np.uint8), (FRAMES, HEIGHT, 1))
    for number, frame in enumerate(frames):
        frame[8:24, 4 + 5 * number : 16 + 5 * number] = 20
    return frames


def write(path, grey, **tags):
    size = {"Rows": HEIGHT, "Columns": WIDTH, "NumberOfFrames": len(grey)}
    return test_dicom.write(path, tags.pop("kind", "MONOCHROME2"), grey.tobytes(), **size | tags)


def jpeg(frame):
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(frame).save(out, "JPEG", quality=95)
    return out.getvalue() + b"\0" * (out.tell() % 2)


def rewrite(path, data, syntax=None):
    """Has other pixel data, of undefined length, and another transfer syntax."""
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = syntax or uid.JPEGBaseline8Bit
    ds.PixelData = data
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.save_as(path, enforce_file_format=True)
    return path


def renamed(path, syntax):
    """Has its header name another transfer syntax, whatever the pixels are."""
    data = path.read_bytes()
    place = data.index(b"\x02\x00\x10\x00UI")
    (length,) = struct.unpack_from("<H", data, place + 6)
    name = syntax.encode() + b"\0" * (len(syntax) % 2)
    path.write_bytes(data[: place + 6] + struct.pack("<H", len(name)) + name + data[place + 8 + length :])
    return path


def close(path, grey):
    return np.abs(read.read_video(path).frames.astype(int) - grey).mean() < 2


def compressed(grey, syntax):
    """The pictures of an object that pydicom compressed."""
    size = {"Rows": HEIGHT, "Columns": WIDTH, "NumberOfFrames": len(grey)}
    file = test_dicom.write(io.BytesIO(), "MONOCHROME2", grey.tobytes(), **size)
    file.seek(0)
    ds = pydicom.dcmread(file)
    ds.compress(syntax)
    return list(encaps.generate_frames(ds.PixelData, number_of_frames=len(grey)))


KINDS = {
    dicom_codestream.BASELINE: lambda grey: [jpeg(frame) for frame in grey],
    dicom_codestream.JPEG_LS: lambda grey: compressed(grey, uid.JPEGLSLossless),
    dicom_codestream.JPEG_2000: lambda grey: compressed(grey, uid.JPEG2000Lossless),
    dicom_codestream.RUN_LENGTHS: lambda grey: compressed(grey, uid.RLELossless),
}
NAMES = (uid.JPEGBaseline8Bit, uid.JPEGLosslessSV1, uid.JPEG2000, uid.RLELossless, uid.ExplicitVRLittleEndian, "")


@pytest.mark.parametrize("syntax", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_say_how_they_are_compressed(tmp_path, grey, kind, syntax):
    """As after a conversion that left the header's name behind."""
    if kind == dicom_codestream.JPEG_LS:
        pytest.importorskip("jpeg_ls", reason="pydicom compresses JPEG-LS with pyjpegls")
    pictures = KINDS[kind](grey)
    assert {dicom_codestream.kind_of(picture) for picture in pictures} == {kind}
    path = rewrite(write(tmp_path / "a.dcm", grey), encaps.encapsulate(pictures))
    assert close(renamed(path, syntax), grey)


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, ""])
@pytest.mark.parametrize("undefined", [True, False])
def test_fragments_of_no_known_kind_are_not_taken_for_pixels(tmp_path, grey, syntax, undefined):
    """Uncompressed frames in items, of a header that knows nothing of items: their headers would be pixels."""
    data = encaps.encapsulate([frame.tobytes() for frame in grey])
    ds = pydicom.dcmread(rewrite(write(tmp_path / "a.dcm", grey), data))
    ds.file_meta.TransferSyntaxUID, implicit = syntax or uid.ExplicitVRLittleEndian, syntax.endswith("1.2")
    ds["PixelData"].is_undefined_length = undefined
    pydicom.dcmwrite(path := tmp_path / "b.dcm", ds, force_encoding=True, implicit_vr=implicit, little_endian=True)
    with pytest.raises(VideoError, match="pixels lie in fragments"):
        read.read_video(renamed(path, syntax))


@pytest.mark.parametrize("length", [100, 2**32 - 1])
def test_pixels_that_begin_as_an_item_by_chance(tmp_path, grey, length):
    grey[0, 0, :8] = np.frombuffer(ITEM + struct.pack("<I", length), np.uint8)
    np.testing.assert_array_equal(read.read_video(write(tmp_path / "a.dcm", grey)).frames, grey)


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.RLELossless, ""])
def test_pixels_that_are_not_compressed_though_the_header_says_so(tmp_path, grey, syntax):
    np.testing.assert_array_equal(read.read_video(renamed(write(tmp_path / "a.dcm", grey), syntax)).frames, grey)


def test_a_transfer_syntax_of_a_maker_is_named(tmp_path, grey):
    with pytest.raises(VideoError, match="1.2.840.113619.9.9"):
        read.read_video(renamed(write(tmp_path / "a.dcm", grey), "1.2.840.113619.9.9"))


def offsets(pictures, off=0):
    starts = np.cumsum([0] + [8 + len(picture) for picture in pictures[:-1]]) + off
    return starts.astype("<u4").tobytes()


TABLES = {  # the table of offsets, and into how many fragments each picture is cut
    "right": (lambda p: offsets(p), 1),
    "empty": (lambda p: b"", 1),
    "empty, fragments": (lambda p: b"", 3),
    "eight bytes off": (lambda p: offsets(p, 8), 1),
    "of nothing there": (lambda p: offsets(p, 4321), 1),
    "zeros": (lambda p: bytes(4 * len(p)), 1),
    "too short": (lambda p: offsets(p)[:8], 1),
    "no whole number": (lambda p: offsets(p)[:-2], 1),
    "of before it was cut in fragments": (lambda p: offsets(p), 2),
}


@pytest.mark.parametrize("kind", TABLES)
def test_pictures_are_found_without_the_table_of_offsets(tmp_path, grey, kind):
    table, parts = TABLES[kind]
    pictures = [jpeg(frame) for frame in grey]
    pieces = [table(pictures)]
    for picture in pictures:
        step = -(-len(picture) // parts // 2) * 2
        pieces += [picture[start : start + step] for start in range(0, len(picture), step)]
    items = [ITEM + struct.pack("<I", len(piece)) + piece for piece in (*pieces, b"")]  # an empty one at the end
    assert close(rewrite(write(tmp_path / "a.dcm", grey), b"".join(items) + END), grey)
    if kind == "empty":  # some leave it out
        assert close(rewrite(write(tmp_path / "b.dcm", grey), b"".join(items[1:]) + END), grey)


@pytest.mark.parametrize("said", [None, 0, 1, FRAMES - 1])
def test_more_frames_than_the_header_counts_are_read(tmp_path, grey, said):
    np.testing.assert_array_equal(read.read_video(write(tmp_path / "a.dcm", grey, NumberOfFrames=said)).frames, grey)
    path = write(tmp_path / "b.dcm", grey, NumberOfFrames=said)
    assert close(rewrite(path, encaps.encapsulate([jpeg(frame) for frame in grey])), grey)


def test_fewer_frames_than_the_header_counts_are_refused(tmp_path, grey):
    path = write(tmp_path / "a.dcm", grey, NumberOfFrames=FRAMES + 1)
    with pytest.raises(VideoError, match="less than expected"):
        read.read_video(path)
    with pytest.raises(VideoError, match="holds 5 of 6 frames.* its header counts wrong"):
        read.read_video(rewrite(path, encaps.encapsulate([jpeg(frame) for frame in grey])))


@pytest.mark.parametrize("times", [2, 3])
def test_data_of_other_pixels_are_not_taken_for_more_frames(tmp_path, grey, times):
    """Colour, or two bytes a sample, of which the header says nothing."""
    path = write(tmp_path / "a.dcm", np.repeat(grey[..., None], times, -1), NumberOfFrames=FRAMES)
    with pytest.raises(VideoError, match=f"{times} times as long .* SamplesPerPixel or BitsAllocated is wrong"):
        read.read_video(path)
    single = write(tmp_path / "b.dcm", np.repeat(grey[:1, ..., None], times, -1), NumberOfFrames=None)
    with pytest.raises(VideoError, match=f"{times} times as long"):
        read.read_video(single)


def test_one_frame_is_a_still(tmp_path, grey):
    with pytest.raises(NotAClip, match="one frame"):
        read.read_video(write(tmp_path / "a.dcm", grey[:1], NumberOfFrames=None))


@pytest.mark.parametrize("name", ["BitsStored", "PixelRepresentation", "HighBit", "SamplesPerPixel"])
def test_what_can_only_be_one_thing_may_be_missing_or_wrong(tmp_path, grey, name):
    wrong = {"BitsStored": 0, "PixelRepresentation": 7, "HighBit": 31}
    for value in (None, *([wrong[name]] if name in wrong else [])):
        video = read.read_video(write(tmp_path / "a.dcm", grey, **{name: value}))
        np.testing.assert_array_equal(video.frames, grey)


NUMBERS = ("BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel", "NumberOfFrames")
NEEDED = ("Rows", "Columns", "BitsAllocated")


@pytest.mark.parametrize("kind", [b"ZZ", b"PN", b"FL", b"UI"])
@pytest.mark.parametrize("name", [*NUMBERS, *NEEDED])
def test_a_number_of_a_damaged_kind_is_as_good_as_none(tmp_path, grey, name, kind):
    """Its value representation is another, unknown or of another length: pydicom raises errors or has text for it."""
    tag = struct.pack("<HH", *divmod(pydicom.datadict.tag_for_keyword(name), 2**16))
    pictures = encaps.encapsulate([jpeg(frame) for frame in grey])
    for path in (write(tmp_path / "a.dcm", grey), rewrite(write(tmp_path / "b.dcm", grey), pictures)):
        data = path.read_bytes()
        assert data.count(tag) == 1
        path.write_bytes(data.replace(tag + data[data.index(tag) + 4 :][:2], tag + kind))
    assert close(path, grey)  # compressed: the pictures say it
    if name in NEEDED:
        with pytest.raises(VideoError, match=f"lacks {name}"):
            read.read_video(tmp_path / "a.dcm")
    else:
        np.testing.assert_array_equal(read.read_video(tmp_path / "a.dcm").frames, grey)


def test_colour_without_planar_configuration(tmp_path, grey):
    rgb = np.repeat(grey[..., None], 3, -1)
    path = write(tmp_path / "a.dcm", rgb, kind="RGB", samples=3, PlanarConfiguration=None)
    np.testing.assert_array_equal(read.read_video(path).frames, grey)


@pytest.mark.parametrize("name", ["Rows", "Columns", "PhotometricInterpretation"])
def test_what_uncompressed_pixels_need_is_named_and_pictures_say_it_themselves(tmp_path, grey, name):
    path = write(tmp_path / "a.dcm", grey, **{name: None})
    with pytest.raises(VideoError, match="photometric" if name.startswith("Photo") else f"lacks {name}"):
        read.read_video(path)
    ds = pydicom.dcmread(write(tmp_path / "b.dcm", grey))
    del ds[name]
    ds.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    ds.PixelData = encaps.encapsulate([jpeg(frame) for frame in grey])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.save_as(path, enforce_file_format=True)
    assert close(path, grey)


@pytest.mark.parametrize("label", ["YBR_PARTIAL_422", "YBR_PARTIAL_420", "ybr_full_422   ", "NOBODY KNOWS IT"])
def test_a_jpeg_needs_no_photometric_interpretation(tmp_path, grey, label):
    rgb = np.repeat(grey[..., None], 3, -1)
    path = write(tmp_path / "a.dcm", rgb, kind="YBR_PARTIAL_422", samples=3)
    path = rewrite(path, encaps.encapsulate([jpeg(frame) for frame in rgb]))
    path.write_bytes(path.read_bytes().replace(b"YBR_PARTIAL_422 ", f"{label:16}".encode()))
    assert close(path, grey)


@pytest.mark.parametrize("kind", [dicom_codestream.BASELINE, dicom_codestream.JPEG_2000])
def test_pictures_of_eight_bits_say_that_they_have_no_sign(tmp_path, grey, kind):
    path = rewrite(write(tmp_path / "a.dcm", grey, PixelRepresentation=1), encaps.encapsulate(KINDS[kind](grey)))
    assert close(path, grey)


def test_the_sign_of_a_wide_picture_is_the_headers(tmp_path):
    """As in an example of pydicom's, whose JPEG 2000 pictures say that they have none."""
    data = (pydicom.data.get_testdata_file("J2K_pixelrep_mismatch.dcm", read=True)).PixelData
    (picture,) = encaps.generate_frames(data, number_of_frames=1)
    assert dicom_codestream.parse(picture).precision == 13 and dicom_codestream.parse(picture).signed is None
