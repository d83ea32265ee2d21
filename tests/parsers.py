"""What reads files and arguments that others made, each with small valid inputs for tests.fuzz to damage."""

import argparse
import dataclasses
import json
import pathlib
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from unittest import mock

import numpy as np
from absl import flags
from ml_collections import config_flags

from tests.builder_case import moving_square, write_table, write_video


@dataclasses.dataclass(frozen=True)
class Parser:
    """Something that reads a file.

    Attributes:
      name: as docs/reliability.md lists it.
      write: makes small valid files in an empty folder.
      read: (file, folder) reads one of them.
      quick: inputs in the short form.
      damaged: pattern of the files that are damaged.
      named: whether refusals must name the file; private ones give its line or row instead.
      needs: a package that reading imports.
    """

    name: str
    write: Callable[[pathlib.Path], None]
    read: Callable[[pathlib.Path, pathlib.Path], object]
    quick: int = 150
    damaged: str = "*"
    named: bool = True
    needs: str = "numpy"


# Videos ------------------------------------------------------------------------------------------------------------


def read_video(path, folder):
    from discovr_jax.data import read
    from discovr_jax.data.io.video import NotAClip, at_constant_rate
    from discovr_jax.data.sector import isolate_video

    try:
        video = at_constant_rate(path, read.read_video(path))
    except NotAClip as error:
        assert path.name in str(error)
        return  # some of the valid files are a still, twice
    assert video.frames.dtype == np.uint8 and video.frames.ndim == 3
    isolate_video(video)


def write_videos(*forms):
    def write(folder):
        for suffix, codec in forms:
            write_video(folder / f"clip{suffix}", moving_square(6, 48, 64), codec=codec)

    return write


OTHER_VIDEOS = (
    (".mov", "mjpeg"), (".mpg", "mpeg1video"), ("2.mpeg", "mpeg2video"), (".wmv", "wmv2"), (".webm", "libvpx-vp9"),
)  # fmt: skip


def write_gif(folder):
    from PIL import Image

    first, *others = (Image.fromarray(frame // 16 * 16) for frame in moving_square(5, 48, 64))
    first.save(folder / "clip.gif", save_all=True, append_images=others, duration=40)


def write_dicom(folder):
    import pydicom
    from pydicom import encaps, uid

    from tests.data.io import test_dicom

    grey = moving_square(3, 48, 64)[:, :8, :12]
    regions = [test_dicom.region(2, 1, 9, 6)]
    test_dicom.write(folder / "grey.dcm", "MONOCHROME2", grey.tobytes(), SequenceOfUltrasoundRegions=regions)
    colour = np.repeat(grey[..., None], 3, axis=3).tobytes()
    ds = pydicom.dcmread(test_dicom.write(folder / "rle.dcm", "RGB", colour, samples=3))
    ds.compress(uid.RLELossless)
    ds.save_as(folder / "rle.dcm")
    ds = pydicom.dcmread(folder / "grey.dcm")
    ds.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    ds.save_as(folder / "deflated.dcm")
    for name in test_dicom.SAME_PICTURE:
        ds = pydicom.dcmread(pydicom.data.get_testdata_file(name))
        (frame,) = encaps.generate_frames(ds.PixelData, number_of_frames=1)
        ds.PixelData, ds.NumberOfFrames = encaps.encapsulate([frame, frame]), 2
        ds["PixelData"].is_undefined_length = True
        ds.save_as(folder / f"{ds.file_meta.TransferSyntaxUID.keyword}.dcm")
    write_video(folder / "clip.mp4", moving_square(6, 48, 64), codec="libx264")
    ds = pydicom.dcmread(folder / "grey.dcm")
    ds.file_meta.TransferSyntaxUID = uid.MPEG4HP41
    ds.PixelData = encaps.encapsulate([(folder / "clip.mp4").read_bytes()])
    ds["PixelData"].is_undefined_length = True
    ds.save_as(folder / "video.dcm")
    (folder / "clip.mp4").unlink()
    window = {"RescaleSlope": "2", "RescaleIntercept": "-50", "WindowCenter": "200", "WindowWidth": "400"}
    test_dicom.write(folder / "wide.dcm", "MONOCHROME2", grey.astype(np.int16).tobytes(), bits=12, **window)
    tags = {
        f"{name}PaletteColorLookupTable{part}": value
        for name in ("Red", "Green", "Blue")
        for part, value in (("Descriptor", [256, 0, 16]), ("Data", np.arange(256, dtype="<u2").tobytes()))
    }
    test_dicom.write(folder / "palette.dcm", "PALETTE COLOR", grey.tobytes(), **tags)


def write_nifti(folder):
    import nibabel

    picture = moving_square(5, 48, 64).T
    for name, values in (("a.nii", picture), ("b.nii.gz", picture[:, :, None]), ("c.nii.gz", picture / 255)):
        nibabel.save(nibabel.Nifti1Image(values, np.diag([0.3, 0.5, 1, 1])), folder / name)
    nibabel.save(nibabel.Nifti2Image(picture, np.eye(4)), folder / "d.nii")


def write_arrays(folder):
    grey = moving_square(4, 24, 32)
    np.save(folder / "a.npy", grey)
    np.save(folder / "b.npy", np.asfortranarray(grey / 255))
    np.savez(folder / "c.npz", frames=grey, fps=30, spacing=[0.5, 0.25])
    np.savez_compressed(folder / "d.npz", np.repeat(grey[..., None], 3, axis=3))


# Tables ------------------------------------------------------------------------------------------------------------


def write_tables(folder):
    header = ("Path", "class", "patient_id", "split", "ef", "fps", "view")
    rows = [("a.avi", "Normal", "7", "train", "61.5", "40", "A4C"), ("b", "", "8", "val", "", "", "")]
    write_table(folder / "list.csv", header, rows)
    (folder / "a.avi").touch()


def read_table(path, folder):
    from tfds_builders import tables

    for row in tables.read_table(path, ("Path", "ef", "split")):
        tables.number(row, "ef")


def read_listing(path, folder):
    from discovr_jax.data import file_listing
    from tfds_builders.echo_folder import class_columns, listing

    rows, _ = listing.read_csv(path, file_listing.list_files(folder), class_columns.Cells([]))
    assert all(row.path is None or row.path.is_relative_to(folder) for row in rows)


def read_input(path, folder):
    from discovr_jax.data import inputs

    for one in inputs.find(path).files:
        inputs.identity(one, b"salt")


# Weights -----------------------------------------------------------------------------------------------------------


def tensors():
    from tests import public_layout

    sizes = public_layout.TINY | {"width": 32, "depth": 1, "decoder_width": 16, "hidden": 8, "outputs": 8}
    return public_layout.state_dict(sizes, True)


def write_safetensors(folder):
    import safetensors.numpy

    args = json.dumps({"num_frames": 4, "input_size": 16})
    safetensors.numpy.save_file(tensors(), folder / "a.safetensors", {"epoch": "7", "args": args})


def write_torch(folder):
    import torch

    model = {name: torch.from_numpy(tensor) for name, tensor in tensors().items()}
    args = argparse.Namespace(num_frames=4, input_size=16, lr=np.float64(1e-4))
    content = {"model": model, "epoch": 7, "args": args}
    torch.save(content, folder / "a.pth")
    torch.save(content, folder / "old.pth", _use_new_zipfile_serialization=False)


def read_weights(path, folder):
    from discovr_jax.convert import state, torch_files
    from discovr_jax.convert.sizes import Hints

    source = torch_files.read_torch_file(path)
    hints = Hints(heads=2, decoder_heads=2, num_frames=4, image_size=16)
    try:
        state.from_torch(source.tensors, Hints.from_args(source.args).over(hints))
    except ValueError as error:
        raise type(error)(f"{path.name}: {error}") from error  # the command line names the file


def write_converted(folder):
    from discovr_jax.convert import folder as folders
    from discovr_jax.convert import state
    from discovr_jax.convert.sizes import Hints

    hints = Hints(heads=2, decoder_heads=2, num_frames=4, image_size=16)
    folders.write(folder, state.from_torch(tensors(), hints), {"epoch": 7})


def read_converted(path, folder):
    from discovr_jax.convert import folder as folders
    from discovr_jax.convert import read as weights_lib
    from discovr_jax.method.experiment import make_model

    folders.read_report(folder)
    make_model(weights_lib.read_weights(folder, lambda name: name.startswith("teacher/video_encoder/")).config)


# Records and runs --------------------------------------------------------------------------------------------------


def write_records(folder):
    from tests import made_up

    with tempfile.TemporaryDirectory() as temporary:
        made_up.build(pathlib.Path(temporary), made_up.sound())
        shutil.copytree(temporary, folder, dirs_exist_ok=True)


def read_records(path, folder):
    from discovr_jax.data import audit, records

    directory = records.open_source(folder, "made_up", "112", "train").path
    for source in audit.open_all(directory).values():
        records.record_fields(source, ["ef", "num_frames"])
        for index in range(len(source)):
            record = source[index]
            size = source.frame_size
            records.decode_frames(record["frames"], size, size, record_id=record["id"])
    audit.check(directory)
    audit.format_summary(audit.summarise(directory))


def write_example(folder):
    from discovr_jax.data import records

    masks = np.ones((1, 16, 16), np.uint8)
    record = records.make_record(
        moving_square(3, 64, 64)[:, :16, :16], masks=masks, mask_frames=[1], mask_is_expert=[True], id="a",
        patient_id="p", flags=["resized"],
    )  # fmt: skip
    (folder / "example").write_bytes(records.features(16).serialize_example(record))
    (folder / "frame").write_bytes(record["frames"][0])


class OneRecord(list):
    """Stands in for the files of a split."""


def read_example(path, folder):
    from discovr_jax.data import records

    source = records.RecordSource(folder, "train", [("", 1)], records.features(16), 16)
    source._shards = OneRecord([path.read_bytes()])
    record = source[0]
    records.decode_frames(record["frames"], 16, 16, record_id=record["id"])


def read_frame(path, folder):
    from discovr_jax.data import records

    records.decode_frames([path.read_bytes()], 16, 16, record_id="frame")


def write_run(folder):
    from discovr_jax.method import experiment
    from tests.conftest import tiny_config

    config = experiment.config_dict(tiny_config())
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    rows = [{"step": step, "loss/total": 1.5, "eval/knn/f1": None} for step in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_run(path, folder):
    from discovr_jax.runs import metrics_log, workdir

    metrics_log.read_metrics(folder)
    workdir.require_same_config(folder, {"model": {"width": 16}}, only="model.width")


# Arguments ---------------------------------------------------------------------------------------------------------


def write_arguments(folder):
    lines = {
        "a": ["--config=adult:variant=s,frames=16", "--config.batch_size=32", "--config.optim.lr=3e-4"],
        "b": ["--config=phantom:smoke", "--config.data.crop_scales=(1.0, 0.5)", "--config.duration=20 steps"],
        "c": ["--config=phantom", "--config.mask.ratio=0.5", "--config.data.abnormal_rule=ef < 57"],
        "d": ["--config=phantom", "--config.model.patch=8", "--config.data.image_size=32", "--config.seed=1"],
    }
    for name, arguments in lines.items():
        (folder / name).write_text("\n".join(arguments))


def read_arguments(path, folder):
    from discovr_jax import command_line
    from discovr_jax.method import experiment

    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    arguments = path.read_bytes().decode("utf-8", "replace").split("\n")
    argv = ["main", *arguments]
    # The library looks for the keys in sys.argv too; it warns of how it imports a config.
    with mock.patch.object(sys, "argv", argv), warnings.catch_warnings(action="ignore"):
        command_line.parse_flags(argv, values)
    if values["config"].value is not None:
        experiment.make_experiment(values["config"].value, 100)


PARSERS = (
    Parser("DICOM", write_dicom, read_video, 300),
    Parser("AVI", write_videos((".avi", "mjpeg"), ("2.avi", "mpeg4")), read_video),
    Parser("MP4, MKV", write_videos((".mp4", "libx264"), (".mkv", "libx264")), read_video),
    Parser("MOV, MPEG, WMV, WebM", write_videos(*OTHER_VIDEOS), read_video),
    Parser("GIF", write_gif, read_video),
    Parser("NIfTI", write_nifti, read_video),
    Parser("NPY, NPZ", write_arrays, read_video),
    Parser("tables of public sets", write_tables, read_table, damaged="*.csv"),
    Parser("CSV of a private archive", write_tables, read_listing, damaged="*.csv", named=False),
    Parser("CSV of `extract`", write_tables, read_input, damaged="*.csv"),
    Parser("safetensors", write_safetensors, read_weights, 30),
    Parser("PyTorch files", write_torch, read_weights, 30, needs="torch"),
    Parser("checkpoints, converted models", write_converted, read_converted, 10),
    Parser("folders of records", write_records, read_records, 30, damaged="*[!g]"),
    Parser("serialised records", write_example, read_example, damaged="example", named=False),
    Parser("compressed frames", write_example, read_frame, damaged="frame"),
    Parser("workdirs", write_run, read_run),
    Parser("arguments of the command line", write_arguments, read_arguments, 100, named=False),
)
