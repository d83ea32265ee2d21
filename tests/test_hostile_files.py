"""Files made to do harm: bombs, headers that claim too much, lists of other files, names of code to run."""

import gzip
import pathlib
import struct
import zipfile
import zlib

import jax
import numpy as np
import pytest

from discovr_jax.convert import names, state, torch_files
from discovr_jax.convert.sizes import ConversionError, Hints
from discovr_jax.data import file_listing, inputs, read
from discovr_jax.data.io import video
from discovr_jax.data.io.video import VideoError
from tests import mutations
from tests.builder_case import moving_square, write_video
from tests.data.io import test_dicom
from tests.parsers import tensors, write_safetensors
from tfds_builders import tables
from tfds_builders.echo_folder import class_columns, listing

MIB = 2**20
MANY = 300  # MiB of zeros that a bomb holds
HINTS = Hints(heads=2, decoder_heads=2, num_frames=4, image_size=16)


@pytest.fixture(autouse=True)
def bounded(monkeypatch, tmp_path, request):
    """Decoded videos may have 8 MiB, the process 256 MiB more than it has; nothing runs and nothing is written."""
    monkeypatch.setattr(video, "MAX_BYTES", 8 * MIB)
    # Libraries load, and their threads start, where memory is not limited.
    jax.random.key(0)
    if "torch" in request.fixturenames:
        request.getfixturevalue("torch")
    with mutations.limited(memory=256 * MIB), mutations.watched(tmp_path) as seen:
        yield
    assert seen == []


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="reading .pth files needs torch (pip install 'discovr_jax[torch]')")


def refused(path, words):
    with pytest.raises(VideoError, match=words) as error:
        read.read_video(path)
    assert path.name in str(error.value)


# Videos ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["ffconcat version 1.0\nfile real.avi\n", "#EXTM3U\n#EXTINF:1,\nreal.avi\n"])
def test_a_list_of_other_files_is_no_video(tmp_path, text):
    write_video(tmp_path / "real.avi", moving_square(4))
    (tmp_path / "list.avi").write_text(text)
    refused(tmp_path / "list.avi", "decoding failed")


def test_a_name_is_no_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "concat:a.avi", moving_square(4))
    assert len(read.read_video(pathlib.Path("concat:a.avi")).frames) == 4


def test_a_picture_that_is_larger_than_its_container_says(tmp_path):
    write_video(tmp_path / "a.avi", moving_square(4))
    data = bytearray((tmp_path / "a.avi").read_bytes())
    for place in range(len(data) - 4):
        if data[place : place + 4] == b"\xff\xc0\x00\x11":  # JPEG's start of frame: precision, height, width
            data[place + 5 : place + 9] = struct.pack(">HH", 60_000, 60_000)
    (tmp_path / "a.avi").write_bytes(data)
    refused(tmp_path / "a.avi", "decoding failed at frame 0")


def test_a_gif_of_a_giant_screen(tmp_path):
    from tests.parsers import write_gif

    write_gif(tmp_path)
    data = bytearray((tmp_path / "clip.gif").read_bytes())
    data[6:10] = struct.pack("<HH", 65_535, 65_535)
    (tmp_path / "clip.gif").write_bytes(data)
    refused(tmp_path / "clip.gif", "decoding failed|no echocardiogram")


def test_metadata_of_a_container_in_any_bytes(tmp_path):
    import av

    with av.open(str(tmp_path / "a.avi"), "w") as container:
        container.metadata["title"] = "titletitle"
        stream = container.add_stream("mjpeg", rate=25)
        stream.height = stream.width = 48
        stream.pix_fmt = "yuvj420p"
        for frame in moving_square(3, 48, 48):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray").reformat(format="yuvj420p")))
        container.mux(stream.encode())
    data = (tmp_path / "a.avi").read_bytes()
    assert b"titletitle" in data
    (tmp_path / "a.avi").write_bytes(data.replace(b"titletitle", b"\xff\xfe\xc3\x28\xa0title"))
    assert len(read.read_video(tmp_path / "a.avi").frames) == 3


# Arrays ------------------------------------------------------------------------------------------------------------


def npy(shape, descr="|u1", version=1):
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(header)) + header


def write_npz(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in members.items():
            with archive.open(name, "w", force_zip64=True) as file:
                for part in data if isinstance(data, list) else [data]:
                    file.write(part)


def test_archives_that_inflate_without_end(tmp_path):
    zeros = [bytes(MIB)] * MANY
    write_npz(tmp_path / "header.npz", frames=[b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1), *zeros])
    refused(tmp_path / "header.npz", "not a readable NumPy array")
    write_npz(tmp_path / "shape.npz", frames=[npy((MANY, 1024, 1024)), *zeros])
    refused(tmp_path / "shape.npz", "no echocardiogram")
    write_npz(tmp_path / "item.npz", frames=npy((2, 8, 8)) + bytes(128), fps=[npy((), f"|S{MANY * MIB}"), *zeros])
    refused(tmp_path / "item.npz", "a still")  # the rate is unknown, and was not read
    write_npz(tmp_path / "void.npz", frames=[npy((2, 8, 8), f"|V{MANY * MIB}"), *zeros])
    refused(tmp_path / "void.npz", "no echocardiogram")


def test_two_members_of_one_name(tmp_path):
    """The one whose header was looked at is the one that is read."""
    sound = npy((2, 8, 8)) + bytes(64) + bytes([200]) * 64
    write_npz(tmp_path / "a.npz", **{"frames": [npy((MANY, 1024, 1024)), *[bytes(MIB)] * MANY], "frames.npy": sound})
    assert read.read_video(tmp_path / "a.npz").frames.shape == (2, 8, 8)


def write_nifti(path, shape, offset, data):
    header = bytearray(348)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, len(shape), *shape, *[1] * (7 - len(shape)))
    struct.pack_into("<hh", header, 70, 2, 8)  # uint8
    struct.pack_into("<8f", header, 76, *[1.0] * 8)
    struct.pack_into("<f", header, 108, offset)
    header[344:348] = b"n+1\0"
    with gzip.open(path, "wb", 1) as file:
        file.write(bytes(header) + data[:16])
        for _ in range(MANY if len(data) > 16 else 0):
            file.write(bytes(MIB))


def test_compressed_nifti_files_that_claim_too_much(tmp_path):
    extension = b"\1\0\0\0" + struct.pack("<ii", MANY * MIB, 6)
    write_nifti(tmp_path / "extension.nii.gz", (8, 8, 3), MANY * MIB, extension + bytes(100))
    refused(tmp_path / "extension.nii.gz", "its pixels begin at byte")
    write_nifti(tmp_path / "shape.nii.gz", (4000, 4000, 400), 352, bytes(100))
    refused(tmp_path / "shape.nii.gz", "no echocardiogram")


# DICOM -------------------------------------------------------------------------------------------------------------


def write_dicom(path, pictures=None, syntax="ExplicitVRLittleEndian", **tags):
    import pydicom
    from pydicom import encaps, uid

    grey = np.zeros((test_dicom.FRAMES, test_dicom.HEIGHT, test_dicom.WIDTH), np.uint8)
    ds = pydicom.dcmread(test_dicom.write(path, "MONOCHROME2", grey.tobytes(), **tags))
    ds.file_meta.TransferSyntaxUID = getattr(uid, syntax)
    if pictures:
        ds.PixelData = encaps.encapsulate([pictures] * test_dicom.FRAMES)
        ds["PixelData"].is_undefined_length = True
    ds.save_as(path, enforce_file_format=True)


JPEG = b"\xff\xd8\xff\xc0\x00\x0b\x08" + struct.pack(">HH", 65_000, 65_000) + b"\x01\x01\x11\x00"
JPEG_2000 = b"\xff\x4f\xff\x51" + struct.pack(">HHII", 41, 0, 100_000, 100_000) + bytes(30)
BOMBS = {"JPEGBaseline8Bit": JPEG, "JPEGLSLossless": JPEG.replace(b"\xff\xc0", b"\xff\xf7"), "JPEG2000": JPEG_2000}


@pytest.mark.parametrize("syntax", BOMBS)
def test_pictures_that_say_they_are_giant(tmp_path, syntax):
    write_dicom(tmp_path / "a.dcm", BOMBS[syntax], syntax)
    refused(tmp_path / "a.dcm", "frame 0 .* is too large")


def test_run_lengths_that_go_on_for_ever(tmp_path):
    segment = b"\x81\x00" * (2 * MIB)  # each two bytes become 128
    write_dicom(tmp_path / "a.dcm", struct.pack("<16I", 1, 64, *[0] * 14) + segment, "RLELossless")
    refused(tmp_path / "a.dcm", "frame 0 .* is too large")


def test_a_deflated_object_that_inflates_without_end(tmp_path):
    write_dicom(tmp_path / "a.dcm")
    data = (tmp_path / "a.dcm").read_bytes()
    start = 144 + struct.unpack_from("<I", data, 140)[0]
    meta = data[:start].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    assert len(meta) == start + 2
    meta = meta.replace(b"UI\x14\x001.2.840.10008.1.2.1.99", b"UI\x16\x001.2.840.10008.1.2.1.99")
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    body = packer.compress(data[start:]) + b"".join(packer.compress(bytes(MIB)) for _ in range(MANY)) + packer.flush()
    (tmp_path / "a.dcm").write_bytes(meta + body)
    refused(tmp_path / "a.dcm", "when inflated")


def test_absurd_numbers_of_a_header(tmp_path):
    for tags in ({"NumberOfFrames": 10**9}, {"Rows": 65_535}, {"SamplesPerPixel": 60_000, "NumberOfFrames": 10_000}):
        write_dicom(tmp_path / "a.dcm", **tags)
        refused(tmp_path / "a.dcm", "no echocardiogram")


# Tables ------------------------------------------------------------------------------------------------------------


CELLS = {"megabytes": "A" * 10 * MIB, "formula": "=cmd|' /C calc'!A0", "zero byte": "\0"}


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_cells_that_are_no_names(tmp_path, cell):
    (tmp_path / "a.avi").touch()
    (tmp_path / "list.csv").write_text(f"path,class,ef\na.avi,Normal,{cell}\n{cell},Normal,\n")
    with pytest.raises(tables.SourceError, match="The CSV cannot be read|CSV line 2: ef is not a number") as error:
        listing.read_csv(tmp_path / "list.csv", file_listing.list_files(tmp_path), class_columns.Cells([]))
    assert len(str(error.value)) < 300
    try:
        rows = tables.read_table(tmp_path / "list.csv", ["path", "ef"])
        with pytest.raises(tables.SourceError, match="list.csv line 2: column ef holds"):
            tables.number(rows[0], "ef")
    except tables.SourceError as error:
        assert "list.csv cannot be read" in str(error)
    try:
        assert len(inputs.find(tmp_path / "list.csv").files) == 2
    except inputs.InputError as error:
        assert "list.csv: The CSV cannot be read" in str(error)


def test_long_cells_are_not_repeated_and_long_paths_name_no_file(tmp_path):
    (tmp_path / "list.csv").write_text(f"path,ef\n{'9' * 5000},{'x' * 5000}\n")
    (row,) = tables.read_table(tmp_path / "list.csv", ["path", "ef"])
    for parse in (lambda: tables.number(row, "ef"), lambda: tables.read_table(tmp_path / "list.csv", ["x" * 9])):
        with pytest.raises(tables.SourceError) as error:
            parse()
        assert len(str(error.value)) < 600
    with pytest.raises(inputs.InputError, match="Row 1: no such file") as error:
        inputs.find(tmp_path / "list.csv")
    assert len(str(error.value)) < 600


# Weights -----------------------------------------------------------------------------------------------------------


def test_a_header_of_safetensors_that_claims_too_much(tmp_path):
    for name, content in (
        ("long", struct.pack("<Q", 2**62) + b"{}"),
        ("far", struct.pack("<Q", 68) + b'{"a":{"dtype":"F32","shape":[99999999,99999999],"data_offsets":[0,4]}}'),
        ("deep", struct.pack("<Q", 90_000) + b"[" * 90_000),
    ):
        (tmp_path / f"{name}.safetensors").write_bytes(content)
        with pytest.raises(ConversionError, match=f"{name}.safetensors is no readable"):
            torch_files.read_torch_file(tmp_path / f"{name}.safetensors")


def test_arguments_in_safetensors_that_are_none(tmp_path):
    import safetensors.numpy

    for args, epoch in (("[" * 5000, "7"), ("{", "7"), ("{}", "²")):
        metadata = {"args": args, "epoch": epoch}
        safetensors.numpy.save_file({"a": np.ones(2, np.float32)}, tmp_path / "a.safetensors", metadata)
        with pytest.raises(ConversionError, match="a.safetensors is no readable"):
            torch_files.read_torch_file(tmp_path / "a.safetensors")
    write_safetensors(tmp_path)
    assert torch_files.read_torch_file(tmp_path / "a.safetensors").epoch == 7


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder.blocks.999999999.norm1.weight": (32,)}, "1 not used|wanted|missing"),
        ({f"encoder.blocks.{'9' * 5000}.norm1.weight": (32,)}, "not used|missing"),
        ({f"{module}.pos_embed": (1, 2**20, 1) for module in ("encoder", "video_teacher")}, "does not fit|no model's"),
        ({f"{module}.norm.weight": () for module in names.ENCODERS}, "no model has the sizes"),
        ({"prototypes": (3, 0)}, "sides are from 1"),
        ({"prototypes": (2**21, 1)}, "sides are from 1"),
    ],
    ids=["block", "digits", "positions", "scalars", "empty", "long"],
)  # fmt: skip
def test_tensors_of_absurd_sizes(tmp_path, changes, words):
    import safetensors.numpy

    changed = tensors() | {name: np.zeros(shape, np.float32) for name, shape in changes.items()}
    safetensors.numpy.save_file(changed, tmp_path / "a.safetensors")
    with pytest.raises(ConversionError, match=words):
        state.from_torch(torch_files.read_torch_file(tmp_path / "a.safetensors").tensors, HINTS)


def test_views_that_repeat_one_number(torch, tmp_path):
    torch.save({"model": {"a": torch.ones(1).expand(10**6, 10**6)}}, tmp_path / "a.pth")
    with pytest.raises(ConversionError, match="a.pth: tensor a .* holds fewer numbers"):
        torch_files.read_torch_file(tmp_path / "a.pth")


def test_a_pth_archive_with_members_outside_writes_nothing(torch, tmp_path):
    (tmp_path / "in").mkdir()
    torch.save({"model": {"a": torch.ones(2)}}, tmp_path / "in" / "a.pth")
    with zipfile.ZipFile(tmp_path / "in" / "a.pth", "a") as archive:
        archive.writestr("../../escaped", "x")
        archive.writestr("/escaped", "x")
    with pytest.raises(ConversionError, match="a.pth cannot be read"):
        torch_files.read_torch_file(tmp_path / "in" / "a.pth")
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "a.pth"] and not pathlib.Path("/escaped").exists()
