"""Records that somebody else wrote: no code of theirs runs, and what is no record is refused by name."""

import json
import sys

import pytest

from discovr_jax.data import manifest, records
from tests import made_up


@pytest.fixture
def prepared(tmp_path):
    return made_up.build(tmp_path / "records", made_up.sound())


def test_a_schema_that_names_code_is_not_imported(prepared, tmp_path, monkeypatch):
    """TFDS imports the module of whatever class features.json names."""
    (tmp_path / "planted.py").write_text("raise AssertionError('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    file = prepared / "features.json"
    content = json.loads(file.read_text())
    content["featuresDict"]["features"]["ef"]["pythonClassName"] = "planted.Feature"
    file.write_text(json.dumps(content))
    with pytest.raises(records.RecordsError, match="names a class of no known kind, 'planted.Feature'"):
        records.open_directory(prepared, "train")
    assert "planted" not in sys.modules


def test_frames_that_decompress_to_something_else():
    import lz4.block

    for data in (lz4.block.compress(bytes(100 * 2**20), store_size=False), b"", b"\xff" * 50):
        with pytest.raises(records.RecordsError, match="Record r: frame 0 is damaged .* expected 112 x 112 bytes"):
            records.decode_frames([data], 112, 112, record_id="r")


def test_ids_that_are_no_text(prepared):
    source = records.open_directory(prepared, "val")
    source._shards = [source._shards[0].replace(b"A4C", b"\xff\xfe\xff")]
    with pytest.raises(records.RecordsError, match="Record 0 of RecordSource.* cannot be read .*codec"):
        source[0]


@pytest.mark.parametrize("text", ["split\n", "\xff", "train,0,0\n"], ids=["columns", "no text", "short"])
def test_a_manifest_that_is_none(prepared, text):
    file = prepared / "manifest.csv"
    whole = file.read_text()
    file.write_bytes(whole.encode() + text.encode("latin-1") if text != "split\n" else text.encode())
    with pytest.raises(records.RecordsError, match="manifest.csv is damaged"):
        manifest.rows(prepared)
