import pathlib
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from discovr_jax.data import records
from tests.builder_case import moving_square
from tfds_builders import echo_builder

LABELLED, BARE = "é1", "plain"


def example(name: str, split: str) -> dict:
    if name == BARE:
        return records.make_record(moving_square(3), id=name, patient_id=name)
    masks = np.zeros((2, 112, 112), np.uint8)
    masks[0, 40:60, 40:60], masks[1, 45:55, 45:55] = 1, 3
    return records.make_record(
        moving_square(5), masks=masks, id=name, patient_id="p1", fps=49.5, ef=61.25, source_label=1,
        mask_frames=[4, 2], mask_is_expert=[True, False],
        ed_frame=4, es_frame=2, flags=["resized", "mirrored"],
        pixel_spacing=[0.4, 0.5],
    )  # fmt: skip


class Handmade(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Records without any source files."""

    name = "handmade"
    pkg_dir_path = pathlib.Path(__file__).parent
    VERSION = tfds.core.Version(records.BUILDER_VERSION)
    BUILDER_CONFIGS = [echo_builder.EchoConfig(name="112")]

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=records.features(112))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples((LABELLED, BARE)), "val": self._generate_examples((BARE,))}

    def _generate_examples(self, names):
        for name in names:
            yield name, example(name, "train")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("records")
    Handmade(config="112", data_dir=directory, file_format="array_record").download_and_prepare()
    return directory


@pytest.fixture
def copy(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "copy")
    return tmp_path / "copy"


def open_train(data_dir):
    return records.open_source(data_dir, "handmade", "112", "train")


def by_id(source):
    return {source[index]["id"]: source[index] for index in range(len(source))}


def test_frames_come_back_exactly():
    frames = np.random.default_rng(0).integers(0, 256, (4, 30, 50), np.uint8)
    compressed = records.encode_frames(frames)
    np.testing.assert_array_equal(records.decode_frames(compressed, 30, 50), frames)
    np.testing.assert_array_equal(records.decode_frames(compressed, 30, 50, [3, 0, 3]), frames[[3, 0, 3]])
    assert records.decode_frames(compressed, 30, 50, []).shape == (0, 30, 50)


@pytest.mark.parametrize("damage", [b"", b"abc", b"\x10a"])
def test_a_damaged_frame_is_named(damage):
    compressed = records.encode_frames(moving_square(2))
    for broken in (damage, compressed[1][:40]):
        with pytest.raises(ValueError, match="Record r7: frame 1 is damaged"):
            records.decode_frames([compressed[0], broken], 112, 112, [0, 1], record_id="r7")


def test_every_field_survives_the_file(data_dir):
    record = by_id(open_train(data_dir))[LABELLED]
    frames = records.decode_frames(record["frames"], 112, 112)
    np.testing.assert_array_equal(frames, moving_square(5))
    assert record["masks"].shape == (2, 112, 112) and record["masks"].sum((1, 2)).tolist() == [400, 300]
    assert record["mask_frames"].tolist() == [4, 2] and record["mask_is_expert"].tolist() == [True, False]
    assert (record["ef"], record["fps"], record["source_label"]) == (61.25, 49.5, 1)
    assert (record["ed_frame"], record["es_frame"], record["num_frames"]) == (4, 2, 5)
    assert record["flags"] == ["resized", "mirrored"] and record["patient_id"] == "p1"
    np.testing.assert_allclose(record["pixel_spacing"], [0.4, 0.5], rtol=1e-6)
    assert set(record) == set(records.features(112))


def test_what_is_unknown_says_so(data_dir):
    record = by_id(open_train(data_dir))[BARE]
    assert all(np.isnan(record[name]) for name in records.FLOAT_FIELDS)
    assert np.isnan(record["pixel_spacing"]).all()
    assert (record["source_label"], record["ed_frame"], record["es_frame"]) == (-1, -1, -1)
    assert record["masks"].shape == (0, 112, 112) and record["flags"] == [] and record["view"] == ""
    assert record["mask_frames"].shape == record["mask_is_expert"].shape == (0,)


def test_record_fields_are_columns_in_record_order(data_dir):
    source = open_train(data_dir)
    fields = records.record_fields(source, ["id", "ef", "num_frames"])
    assert fields["ef"].dtype == np.float32 and fields["num_frames"].dtype == np.int32
    assert fields["id"].tolist() == [source[0]["id"], source[1]["id"]]
    np.testing.assert_array_equal(fields["ef"], [source[0]["ef"], source[1]["ef"]])
    with pytest.raises(KeyError, match="frames.*not scalar fields"):
        records.record_fields(source, ["frames"])


def test_source_is_small_and_readable_after_pickling(data_dir):
    source = open_train(data_dir)
    source[0]  # An open reader must not be pickled.
    small = len(pickle.dumps(source))
    records.record_fields(source, ["id"])
    source._columns["id"] = np.repeat(source._columns["id"], 100_000)
    assert len(pickle.dumps(source)) == small < 20_000  # nor the columns, which grow with the records
    again = pickle.loads(pickle.dumps(source))
    assert records.record_fields(again, ["id"])["id"].tolist() == [source[0]["id"], source[1]["id"]]
    assert [again[i]["id"] for i in range(2)] == [source[i]["id"] for i in range(2)]
    for index in (-1, 2):
        with pytest.raises(IndexError):
            source[index]


def test_reading_needs_neither_tensorflow_nor_a_jax_backend(data_dir):
    code = (
        "import sys; from discovr_jax.data import records; "
        f"records.open_source({str(data_dir)!r}, 'handmade', '112', 'train')[0]; "
        "heavy = {'tensorflow', 'av', 'pandas', 'sklearn', 'matplotlib'} & set(sys.modules); "
        "import jax; jax.config.update('jax_num_cpu_devices', 1); "  # an error once a backend has started
        "print(heavy or 'clean')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=pathlib.Path.cwd()
    )
    assert done.stdout.strip() == "clean", done.stdout + done.stderr


def test_missing_records_name_the_command(tmp_path):
    with pytest.raises(records.RecordsError) as error:
        records.open_source(tmp_path, "echonet_dynamic", "112", "train")
    assert str(tmp_path) in str(error.value)
    command = (
        f"python -m discovr_jax.prepare echonet_dynamic --manual_dir=DOWNLOADED_FILES --data_dir={tmp_path}"
    )
    assert command in str(error.value)


def test_config_names_end_in_the_frame_size(copy):
    assert records.config_name(112) == "112" and records.config_name(224, "a4c") == "a4c_224"
    assert records.split_config_name("112") == ("", 112)
    assert records.split_config_name("two_words_224") == ("two_words", 224)
    command = records.prepare_command("echonet_pediatric", "data", "a4c_224")
    assert command.endswith("--data_dir=data --frame_size=224 --variant=a4c")
    (copy / "handmade" / "112").rename(copy / "handmade" / "view_112")
    assert records.open_source(copy, "handmade", "view_112", "train").frame_size == 112
    (copy / "handmade" / "view_112").rename(copy / "handmade" / "full")
    with pytest.raises(records.RecordsError, match="'full' does not end in a frame size"):
        records.open_directory(copy / "handmade" / "full" / records.BUILDER_VERSION, "train")


def test_missing_split_is_named(data_dir):
    with pytest.raises(records.RecordsError, match=r"no split 'test', only \['train', 'val'\]"):
        records.open_source(data_dir, "handmade", "112", "test")


def test_missing_shard_is_named(copy):
    shard = next(copy.rglob("*-train.array_record*"))
    shard.unlink()
    with pytest.raises(records.RecordsError, match=f"incomplete: .*{shard.name} is missing"):
        open_train(copy)


@pytest.mark.parametrize("kept", [0, 100, 0.9])
def test_truncated_shard_is_refused(copy, kept):
    shard = next(copy.rglob("*-train.array_record*"))
    data = shard.read_bytes()
    shard.write_bytes(data[: kept if kept >= 1 else int(kept * len(data))])
    with pytest.raises(records.RecordsError, match=f"damaged: .*{shard.name}"):
        open_train(copy)


def test_other_schema_version_is_refused(data_dir, monkeypatch):
    monkeypatch.setattr(records, "READABLE", (3,))
    with pytest.raises(
        records.RecordsError, match="schema version 2 and fields of version 2, this code reads 3.*discovr_jax.prepare"
    ):
        open_train(data_dir)


def test_missing_field_is_refused(copy):
    features = next(copy.rglob("features.json"))
    features.write_text(features.read_text().replace('"rvef"', '"renamed"'))
    with pytest.raises(records.RecordsError, match="rvef"):
        open_train(copy)


def test_damaged_metadata_is_refused(copy):
    next(copy.rglob("dataset_info.json")).write_text("{")
    with pytest.raises(records.RecordsError, match="cannot be read"):
        open_train(copy)


def test_make_record_refuses_what_does_not_fit():
    frames = moving_square(3)
    with pytest.raises(ValueError, match=r"record a: unknown fields \['heart_rate'\]"):
        records.make_record(frames, id="a", patient_id="a", heart_rate=60)
    with pytest.raises(ValueError, match=r"missing fields \['patient_id'\]"):
        records.make_record(frames, id="a")
    with pytest.raises(ValueError, match="1 masks, 0 mask_frames"):
        records.make_record(frames, masks=frames[:1], id="a", patient_id="a")
    masked = {"mask_frames": [7], "mask_is_expert": [True], "masks": frames[:1]}
    for wrong in ({"ed_frame": 3}, {"es_frame": -2}, masked):
        with pytest.raises(ValueError, match=r"record a: .* must lie in its 3 frames"):
            records.make_record(frames, id="a", patient_id="a", **wrong)
    with pytest.raises(ValueError, match=r"frames must be uint8 \[T, S, S\]"):
        records.make_record(frames.astype(np.float32), id="a", patient_id="a")
