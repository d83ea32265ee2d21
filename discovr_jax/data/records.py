"""Records: one echocardiogram clip each, the same schema for every dataset, stored as TFDS array_record.

Frames are grey uint8 of one square size, each compressed on its own with LZ4, so that reading a clip decodes
only the frames it samples. Nothing here imports TensorFlow or starts a jax backend: loader workers use it.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Sequence

import lz4.block
import numpy as np

from discovr_jax.data import manifest
from discovr_jax.data.manifest import DTYPES, FLOAT_FIELDS, INT_FIELDS, SCALAR_FIELDS, TEXT_FIELDS
from discovr_jax.data.manifest import SPLITS as SPLITS
from discovr_jax.data.shards import Shards
from discovr_jax.errors import RecordsError

SCHEMA_VERSION = 2
READABLE = (1, 2)  # 1 is without `classes`
BUILDER_VERSION = "1.0.0"
MASK_CLASSES = ("background", "LV cavity", "myocardium", "left atrium")


def features(frame_size: int):
    """The schema as a `tfds.features.FeaturesDict`, for frames and masks of `frame_size` squared pixels."""
    import tensorflow_datasets as tfds

    size = f"{frame_size} x {frame_size}"
    fields = {
        # Text stores bytes as they are, and unlike Image writes and reads without TensorFlow.
        "frames": tfds.features.Sequence(tfds.features.Text(), doc=f"grey uint8 {size}, an LZ4 block each"),
        "masks": tfds.features.Sequence(tfds.features.Text(), doc=f"uint8 {size}, an LZ4 block each"),
        "mask_frames": tfds.features.Sequence(np.int32),
        "mask_is_expert": tfds.features.Sequence(np.bool_),
        "pixel_spacing": tfds.features.Tensor(shape=(2,), dtype=np.float32, doc="mm; row, column"),
        "flags": tfds.features.Sequence(tfds.features.Text()),
    }
    fields |= {name: tfds.features.Text() for name in TEXT_FIELDS}
    fields |= {name: tfds.features.Scalar(np.float32) for name in FLOAT_FIELDS}
    fields |= {name: tfds.features.Scalar(np.int32) for name in INT_FIELDS}
    return tfds.features.FeaturesDict(fields)


def make_record(frames: np.ndarray, *, masks: np.ndarray | None = None, **fields) -> dict:
    """The record of one clip, with every field that is not given set to "unknown".

    Args:
      frames: uint8 [T, H, W], H = W.
      masks: uint8 [N, H, W] or None; needs `mask_frames` int [N] and `mask_is_expert` bool [N].
      **fields: any other field of the schema; `id` and `patient_id` are required.

    Returns:
      A dict that `features(H)` encodes.

    Raises:
      ValueError: unknown or missing fields, or shapes and lengths that do not agree.

    >>> record = make_record(np.zeros((4, 112, 112), np.uint8), id="a", patient_id="p", ef=55.0, fps=50.0)
    >>> record["num_frames"], record["ef"], record["edv"]  # what is not known is NaN
    (4, 55.0, nan)
    """
    where = f"record {fields.get('id', '?')}"
    if frames.dtype != np.uint8 or frames.ndim != 3 or frames.shape[1] != frames.shape[2] or not len(frames):
        raise ValueError(f"{where}: frames must be uint8 [T, S, S], got {frames.dtype} {frames.shape}.")
    masks = np.zeros((0, *frames.shape[1:]), np.uint8) if masks is None else masks
    if masks.dtype != np.uint8 or masks.shape[1:] != frames.shape[1:]:
        raise ValueError(
            f"{where}: masks must be uint8 [N, {frames.shape[1]}, {frames.shape[2]}], got {masks.dtype} {masks.shape}."
        )
    record = {
        "study_id": "", "dataset": "", "view": "", "classes": "", "flags": [], "mask_frames": [], "mask_is_expert": [],
        "source_label": -1, "ed_frame": -1, "es_frame": -1, "pixel_spacing": [np.nan, np.nan],
        **dict.fromkeys(FLOAT_FIELDS, np.nan),
    }  # fmt: skip
    unknown = sorted(set(fields) - set(record) - {"id", "patient_id"})
    missing = sorted({"id", "patient_id"} - set(fields))
    if unknown or missing:
        raise ValueError(f"{where}: unknown fields {unknown}, missing fields {missing}.")
    record |= fields
    if not len(masks) == len(record["mask_frames"]) == len(record["mask_is_expert"]):
        raise ValueError(
            f"{where}: {len(masks)} masks, {len(record['mask_frames'])} mask_frames and "
            f"{len(record['mask_is_expert'])} mask_is_expert must be equally many."
        )
    numbered = (*record["mask_frames"], *(record[name] for name in ("ed_frame", "es_frame") if record[name] != -1))
    if not all(0 <= frame < len(frames) for frame in numbered):
        raise ValueError(
            f"{where}: mask_frames, ed_frame and es_frame {list(numbered)} must lie in its {len(frames)} frames."
        )
    return record | {
        "schema_version": SCHEMA_VERSION,
        "num_frames": len(frames),
        "frames": encode_frames(frames),
        "masks": encode_frames(masks),
    }


def encode_frames(frames: np.ndarray) -> list[bytes]:
    """Compresses uint8 [T, H, W], each frame on its own (LZ4 block without the size: it is always H * W)."""
    if frames.dtype != np.uint8 or frames.ndim != 3:
        raise ValueError(f"Frames must be uint8 [T, H, W], got {frames.dtype} {frames.shape}.")
    return [lz4.block.compress(np.ascontiguousarray(frame), store_size=False) for frame in frames]


def decode_frames(
    compressed: Sequence[bytes], height: int, width: int, which: Sequence[int] | None = None, *, record_id: str = "?"
) -> np.ndarray:
    """Decompresses chosen frames.

    Args:
      compressed: a record's `frames` (or masks as they are stored).
      height, width: size of every frame in pixels.
      which: indices of the frames to decode, in order, repeats allowed; None for all.
      record_id: named in errors.

    Returns:
      uint8 [len(which), height, width].

    Raises:
      RecordsError: a damaged frame, named by record and index.
    """
    which = range(len(compressed)) if which is None else which
    out = np.empty((len(which), height * width), np.uint8)
    for row, index in enumerate(which):
        try:
            data = lz4.block.decompress(compressed[index], uncompressed_size=height * width)
            # The explicit shape: a damaged block of one byte would otherwise be broadcast without an error.
            out[row] = np.frombuffer(data, np.uint8).reshape(height * width)
        except (lz4.block.LZ4BlockError, ValueError) as error:
            raise RecordsError(
                f"Record {record_id}: frame {index} is damaged ({error}), expected {height} x {width} bytes. "
                "List all damage with `python -m discovr_jax.prepare check DIR`, then prepare them again."
            ) from error
    return out.reshape(-1, height, width)


def content_hash(frames: np.ndarray) -> str:
    """SHA-256 of uint8 frames [T, H, W] and their shape: equal for equal pictures from whatever file."""
    return hashlib.sha256(repr(frames.shape).encode() + frames.tobytes()).hexdigest()


def config_name(frame_size: int, variant: str = "") -> str:
    """Name of a builder config, and of its folder: "112", or "a4c_112" for a variant (a view) of the dataset."""
    return f"{variant}_{frame_size}" if variant else str(frame_size)


def split_config_name(name: str) -> tuple[str, int]:
    """The variant and the frame size that `config_name` was given; ValueError for any other name."""
    variant, _, size = name.rpartition("_")
    if not size.isdecimal():
        raise ValueError(f"'{name}' does not end in a frame size, as 112 and a4c_112 do.")
    return variant, int(size)


def prepare_command(dataset: str, data_dir, config_name: str) -> str:
    """The shell command that makes these records."""
    variant, size = split_config_name(config_name)
    return (
        f"python -m discovr_jax.prepare {dataset} --manual_dir=DOWNLOADED_FILES "
        f"--data_dir={data_dir} --frame_size={size}" + (f" --variant={variant}" if variant else "")
    )


def records_dir(data_dir, dataset: str, config_name: str) -> pathlib.Path:
    """Where the records of one builder config lie: data_dir/dataset/config/version."""
    return pathlib.Path(data_dir).expanduser() / dataset / config_name / BUILDER_VERSION


def open_source(
    data_dir, dataset: str, config_name: str, split: str, shards_at: str | None = None
) -> "RecordSource":
    """Opens one split of prepared records and checks that they are whole.

    Args:
      data_dir, dataset, config_name: see `records_dir`; split: train, val or test.
      shards_at: address of the folder of the array_record files, where they do not lie beside their metadata.

    Raises:
      RecordsError: no such records, a missing or truncated shard, another schema version, no such split, or a
        manifest.csv that was edited since the build: its labels and splits are taken for those of the records.
    """
    path = records_dir(data_dir, dataset, config_name)
    remedy = f"Make the records with: {prepare_command(dataset, data_dir, config_name)}"
    source = open_directory(path, split, remedy=remedy, shards_at=shards_at)
    try:
        built = json.loads((path / "metadata.json").read_text(encoding="utf-8")).get("manifest_sha256")
    except FileNotFoundError:
        built = None
    except (ValueError, AttributeError) as error:
        raise RecordsError(f"{path / 'metadata.json'} is damaged ({error}). {remedy}") from None
    if built and manifest.sha256(path) not in (None, built):
        raise RecordsError(
            f"{path / manifest.FILE} was changed since the build: its SHA-256 is not that of metadata.json. Put the "
            f"file back, or remove {path} and make the records again. {remedy}"
        )
    return source


def open_directory(
    path: pathlib.Path, split: str, *, remedy: str = "Prepare the records again.", shards_at: str | None = None
) -> "RecordSource":
    """`open_source` for the directory that holds dataset_info.json; `remedy` ends every error."""
    import tensorflow_datasets as tfds

    # TFDS renames the directory into place only when it is whole: absence covers interrupted builds.
    for name in ("dataset_info.json", "features.json"):
        if not (path / name).is_file():
            raise RecordsError(f"No prepared records at {path} ({name} is missing). {remedy}")
    try:
        _check_classes(json.loads((path / "features.json").read_bytes()))
        builder = tfds.builder_from_directory(path)
        files = {
            name: [
                (f"{shards_at}/{os.path.basename(file)}" if shards_at else os.fspath(file), count)
                for file, count in zip(info.filepaths, info.shard_lengths, strict=True)
            ]
            for name, info in builder.info.splits.items()
        }
    except Exception as error:  # TFDS raises many kinds for damaged metadata; all mean the same here.
        raise RecordsError(f"Metadata of the records at {path} cannot be read ({error!r:.300}). {remedy}") from error
    if split not in files:
        raise RecordsError(f"Records at {path} have no split '{split}', only {sorted(files)}. {remedy}")
    try:
        Shards(files[split]).check()
    except RecordsError as error:
        raise RecordsError(f"{error} {remedy}") from error
    version = 2 if "classes" in builder.info.features else 1
    missing = sorted(set(features(0)) - set(builder.info.features) - ({"classes"} if version == 1 else set()))
    if missing:
        raise RecordsError(f"Records at {path} lack the fields {missing} of schema {SCHEMA_VERSION}. {remedy}")
    try:
        _, frame_size = split_config_name(path.parent.name)
    except ValueError as error:
        raise RecordsError(f"Records at {path} are in a folder of another name: {error} {remedy}") from error
    source = RecordSource(path, split, files[split], builder.info.features, frame_size)
    if (told := source[0]["schema_version"]) not in READABLE or told != version:
        reads = " and ".join(map(str, READABLE))
        raise RecordsError(
            f"Records at {path} have schema version {told} and fields of version {version}, this code reads {reads}. "
            f"{remedy}"
        )
    return source


def _check_classes(schema) -> None:
    """Raises ValueError if a schema names a class outside TFDS, whose module TFDS would import, and so run."""
    for key, value in schema.items() if isinstance(schema, dict) else ():
        named = key in ("pythonClassName", "python_class_name", "type", "proto_cls")
        if named and not str(value).startswith("tensorflow_datasets.core.features."):
            raise ValueError(f"features.json names a class of no known kind, {str(value)[:100]!r}")
        _check_classes(value)


class RecordSource:
    """Random access to the records of one split, from many threads at once; picklable.

    `source[i]` is a dict of all fields: str for text, list of str for flags, float or int for scalars,
    `frames` the list of compressed bytes (see `decode_frames`), `masks` uint8 [N, H, W], `mask_frames`
    int32 [N], `mask_is_expert` bool [N], `pixel_spacing` float32 [2].

    Attributes:
      path: the directory of the records.
      split: train, val or test.
      frame_size: height and width of frames and masks in pixels.
    """

    def __init__(self, path, split, shards: list[tuple[str, int]], schema, frame_size: int):
        self.path = path
        self.split = split
        self.frame_size = frame_size
        self._shards = Shards(shards)
        self._schema = schema
        self._columns: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._shards)

    def __repr__(self) -> str:
        return f"RecordSource({os.fspath(self.path)!r}, {self.split!r}, {len(self)} records)"

    def __getstate__(self) -> dict:
        return vars(self) | {"_columns": {}}  # a worker never looks at the columns

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f"Record {index} of {len(self)} in {self!r}.")
        try:
            record = {"classes": b"", **self._schema.deserialize_example_np(self._shards[int(index)])}
            for name in TEXT_FIELDS:
                record[name] = record[name].decode("utf-8")
            record["flags"] = [flag.decode("utf-8") for flag in record["flags"]]
            record["frames"], masks = list(record["frames"]), list(record["masks"])
            record["mask_frames"] = np.asarray(record["mask_frames"], np.int32)
            record["mask_is_expert"] = np.asarray(record["mask_is_expert"], np.bool_)
        except Exception as error:
            raise RecordsError(
                f"Record {index} of {self!r} cannot be read ({error}): see that its storage is sound, or prepare the "
                "records again."
            ) from error
        record["masks"] = decode_frames(masks, self.frame_size, self.frame_size, record_id=record["id"])
        return record


def record_fields(source: RecordSource, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of scalar fields over all records of a split, in record order; read once, then kept in memory.

    Returns:
      {name: array [len(source)]}, float32, int32 or str.

    Raises:
      KeyError: a name that is not a scalar field of the schema.
    """
    unknown = sorted(set(names) - set(SCALAR_FIELDS))
    if unknown:
        raise KeyError(f"{unknown} are not scalar fields of a record; there are {sorted(SCALAR_FIELDS)}.")
    if missing := [name for name in names if name not in source._columns]:
        source._columns |= _read_columns(source, missing)
    return {name: source._columns[name] for name in names}


def _read_columns(source: RecordSource, names: Sequence[str]) -> dict[str, np.ndarray]:
    # The builders of this project write the manifest in record order. It saves reading every frame of the
    # dataset for a few numbers (10,000 videos are 14 GB); records from elsewhere are read in full, for all fields.
    columns = manifest.columns(source.path, names, source.split)
    if columns is None:
        records = [source[index] for index in range(len(source))]
        return {name: np.array([record[name] for record in records], DTYPES[name]) for name in SCALAR_FIELDS}
    if (count := len(columns[names[0]])) != len(source):
        raise RecordsError(
            f"{source.path / manifest.FILE} lists {count} records of split {source.split}, "
            f"there are {len(source)}. The files are not of one build; prepare the records again."
        )
    return columns
