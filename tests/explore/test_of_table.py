"""A table's rows, columns joined by id, and clips of its own files alone."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from discovr_jax.data import sector
from discovr_jax.explore import sources
from discovr_jax.explore.clips import ClipError
from discovr_jax.explore.videos import ExploreError
from tests.builder_case import moving_square, write_video

NAMES = ("a.avi", "b.avi", "c.avi", "d.avi")


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for length, name in enumerate(NAMES, 20):
        write_video(folder / name, moving_square(length))
    return folder


@pytest.fixture
def table(tmp_path):
    """As `extract` writes it; the third file gave no row."""
    rows = [0, 1, 3]
    rng = np.random.default_rng(0)
    columns = {
        "row": pa.array(rows, pa.int32()),
        "id": [NAMES[row] for row in rows],
        "num_frames": [20 + row for row in rows],
        "height": [112] * 3,
        "width": [112] * 3,
        "fps": pa.array([50.0, None, 50.0], pa.float32()),
        "flags": ["", "mirrored", ""],
        "features": pa.array(list(rng.normal(size=(3, 4)).astype(np.float32)), pa.list_(pa.float32(), 4)),
    }
    path = tmp_path / "features.parquet"
    pq.write_table(pa.table(columns), path)
    path.with_suffix(".card.json").write_text(json.dumps({"inputs": len(NAMES)}))
    return path


def mask_png(mask):
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def predictions(tmp_path):
    """As `predict` writes them, of two of the files and of another, in another order."""
    whole = np.zeros((112, 112), bool)
    whole[30:60, 40:80] = True
    columns = {"id": ["other.avi", "d.avi", "a.avi"], "lvef": [1.0, 40.0, None], "lvef_low": [0.0, 30.0, None]}
    columns |= {"anomaly_score": [0.1, 0.2, None], "out_of_distribution": [False, False, True], "notice": ["for"] * 3}
    columns |= {f"lv_{phase}_frame": [0, 3, None] for phase in ("ed", "es")}
    columns |= {f"lv_{phase}_mask_png": [None, mask_png(whole), None] for phase in ("ed", "es")}
    path = tmp_path / "predictions.parquet"
    pq.write_table(pa.table(columns), path)
    return path, whole


def test_rows_and_columns(table):
    found = sources.open_videos(table)
    assert list(found.columns["id"]) == ["a.avi", "b.avi", "d.avi"] and found.features.shape == (3, 4)
    assert found.columns["fps"].isna().tolist() == [False, True, False] and "row" not in found.columns
    assert found.categories() == ["flags"]
    assert found.clips is None and "--input=" in found.why_no_clips


def test_predictions_and_labels_join_by_id(table, predictions, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("id,label,ef\nb.avi,abnormal,31\na.avi,normal,61\n")
    columns = sources.open_videos(table, joined=[str(predictions[0]), str(labels)]).columns.set_index("id")
    assert columns.loc["d.avi", "lvef_predicted"] == 40 and np.isnan(columns.loc["b.avi", "lvef_predicted"])
    assert columns.loc["a.avi", "out_of_distribution"] == "True" and columns.loc["b.avi", "out_of_distribution"] == ""
    assert columns["label"].tolist() == ["normal", "abnormal", ""] and columns.loc["b.avi", "ef"] == 31
    assert not {"notice", "lv_ed_mask_png"} & set(columns)


def test_clips_are_the_sector_of_the_row_s_own_file(table, files, predictions):
    found = sources.open_videos(table, files=str(files), joined=[str(predictions[0])])
    clip = found.clips.read(2)
    assert len(clip.frames) == 23 and clip.by == "predicted" and set(clip.stills) == {"ed", "es"}
    from discovr_jax.data import read

    isolated, _, (top, left) = sector.isolate_at(read.read_video(files / "d.avi"))
    np.testing.assert_array_equal(clip.frames, isolated.frames)
    height, width = isolated.frames.shape[1:]
    expected = predictions[1][top : top + height, left : left + width]
    np.testing.assert_array_equal(clip.stills["es"].mask, expected)
    assert not found.clips.read(0).stills


def test_files_that_changed_are_not_shown(table, files):
    found = sources.open_videos(table, files=str(files))
    write_video(files / "b.avi", moving_square(9))
    with pytest.raises(ClipError, match="another one than when the table was made"):
        found.clips.read(1)
    (files / "d.avi").unlink()
    with pytest.raises(ClipError, match="cannot be read"):
        found.clips.read(2)
    with pytest.raises(ExploreError, match="holds 3 files, the table was made from 4"):
        sources.open_videos(table, files=str(files))


def test_what_cannot_be_explored_says_why(table, predictions, tmp_path):
    def refuse(words, source=table, **options):
        with pytest.raises(ExploreError, match=words):
            sources.open_videos(source, **options)

    refuse("holds predictions, no features.*discovr_jax.extract", predictions[0])
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"id": ["a"], "x": [1.0]}), other)
    refuse("has no column features", other)
    pq.write_table(pa.table({"features": [[1.0, 2.0]] * 2}), other)
    refuse("has no column id", other)
    pq.write_table(pa.table({"id": ["a", "b"], "features": [[1.0, 2.0], [1.0]]}), other)
    refuse("equally many in each row", other)
    pq.write_table(pa.table({"id": ["a", "b"], "features": [[1.0, 2.0], [1.0, float("nan")]]}), other)
    refuse("features of 1 of 2 videos are not finite", other)
    pq.write_table(pa.table({"id": ["a", "a"], "features": [[1.0], [2.0]]}), other)
    refuse("the id 'a' stands there twice", other)
    pq.write_table(pa.table({"id": ["a"], "features": [[1.0]]}), other)
    refuse("1 video is no map", other)
    other.write_text("no table")
    refuse("no Parquet file that can be read", other)
    csv = tmp_path / "labels.csv"
    csv.write_text("id,label\nx.avi,normal\n")
    refuse("none of its ids is in", joined=[str(csv)])
    csv.write_text("name,label\na.avi,normal\n")
    refuse("has no column id", joined=[str(csv)])
    refuse("--readout: not for a table", readout="cls")
