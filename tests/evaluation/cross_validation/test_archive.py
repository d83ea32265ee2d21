"""Tables that do not fit each other are noticed; the command from files to tables."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from discovr_jax import cross_validate
from discovr_jax.evaluation.cross_validation import archive
from discovr_jax.evaluation.features import feature_files, feature_table

COUNT = 24


def write(path, ids=None, features=None, metadata=None, **columns):
    """A feature file of `COUNT` videos, "a/0.mp4" and on."""
    ids = [f"a/{row}.mp4" for row in range(COUNT)] if ids is None else ids
    features = np.random.default_rng(0).normal(size=(len(ids), 3)) if features is None else features
    table = pa.table({"id": ids, "features": [list(row) for row in features], **columns})
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return str(path)


@pytest.fixture
def labels(tmp_path):
    """12 patients of two videos; class, EF and site; the columns a user may have."""
    path = tmp_path / "labels.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Path", "patient", "diagnosis", "ef", "site"])
        for row in range(COUNT):
            patient = row // 2
            writer.writerow([f"a\\{row}.mp4", f"p{patient}", "sick" if patient % 2 else "well", 40 + row, patient % 3])
    return path


def read(labels, *files, **options):
    features = feature_files.parse_features([f"f{number}={file}" for number, file in enumerate(files)])
    return archive.read_archive(features, str(labels), **{"label": "diagnosis", "group": "patient", **options})


def test_rows_are_joined_by_id(labels, tmp_path):
    features = np.random.default_rng(0).normal(size=(COUNT, 3))
    order = np.random.default_rng(1).permutation(COUNT)
    ids = [f"a/{row}.mp4" for row in order]
    files = write(tmp_path / "a.parquet", features=features), write(tmp_path / "b.parquet", ids, features[order])
    found = read(labels, *files, where=["site!=0"])
    first, second = (found.features[name][0].readouts["features"] for name in ("f0", "f1"))
    np.testing.assert_array_equal(first, second)
    assert found.ids[0] == "a/2.mp4" and len(found.ids) == 16
    np.testing.assert_array_equal(first[0], features[2])
    assert found.classes == ("sick", "well") and found.target[:4].tolist() == [0, 0, 1, 1]
    assert found.groups[:3].tolist() == ["p1", "p1", "p2"]


def test_shuffled_ids_are_noticed(labels, tmp_path):
    """Each video's number of frames says that an id went to another one's features."""
    frames = np.arange(COUNT) + 30
    right = write(tmp_path / "a.parquet", num_frames=frames)
    ids = [f"a/{row}.mp4" for row in np.roll(np.arange(COUNT), 1)]
    wrong = write(tmp_path / "b.parquet", ids, num_frames=frames)
    with pytest.raises(feature_files.TableError, match=r"num_frames of a/0.mp4, a/1.mp4, .* the ids of one of the two"):
        read(labels, right, wrong)
    read(labels, right, write(tmp_path / "c.parquet", num_frames=frames))
    rows = labels.read_text().splitlines()
    counts = ["num_frames", *(str(n) for n in frames)]
    labels.write_text("\n".join(f"{row},{n}" for row, n in zip(rows, counts, strict=True)) + "\n")
    read(labels, right)
    with pytest.raises(feature_files.TableError, match="num_frames of .* differs from .*labels.csv"):
        read(labels, wrong)


def test_what_does_not_fit_is_refused(labels, tmp_path):
    ids = [f"a/{row}.mp4" for row in range(COUNT)]
    nan = np.zeros((COUNT, 2))
    nan[3, 1] = np.nan
    right = write(tmp_path / "right.parquet")
    cases = {
        "features of a/3.mp4 are NaN or infinite": {"features": nan},
        "a/0.mp4 stand there more than once": {"ids": [ids[0], *ids[:-1]]},
        r"b/0.mp4, b/1.mp4, b/10.mp4 and 21 more are not in .*labels.csv": {"ids": [i.replace("a", "b") for i in ids]},
        r"lacks 2 of the 24 labelled videos, in lines 24, 25. Were they quarantined": {"ids": ids[:-2]},
        "features must be lists of numbers, equally many": {"features": [[1.0]] * 23 + [[1.0, 2.0]]},
    }
    for number, (words, content) in enumerate(cases.items()):
        with pytest.raises(feature_files.TableError, match=words):
            read(labels, right, write(tmp_path / f"{number}.parquet", **content))
    short = write(tmp_path / "short.parquet", ids[8:])
    with pytest.raises(feature_files.TableError, match="hold other videos: a/0.mp4, .* and 5 more are in one only"):
        read(labels, right, short, where=[f"patient!=p{n}" for n in range(4)])
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(feature_files.TableError, match="text.parquet cannot be read as Parquet"):
        read(labels, str(tmp_path / "text.parquet"))


def test_labels_that_do_not_fit_are_refused(labels, tmp_path):
    right, text = write(tmp_path / "a.parquet"), labels.read_text()
    for options, words in (
        ({"label": "severity"}, "has no column 'severity'; it has Path, patient"),
        ({"where": ["site"]}, "--where=site: write COLUMN=VALUE"),
        ({"where": ["site=9"]}, "no row is left"),
        ({"where": ["diagnosis=well"]}, "two classes are needed"),
        ({"label": "", "target": "diagnosis"}, "diagnosis holds 'well', which is no number"),
    ):
        with pytest.raises(feature_files.TableError, match=words):
            read(labels, right, **options)
    for changed, words in (
        (text.replace("a\\1.mp4", "a/0.mp4"), "line 3 has the id of line 2"),
        (text.replace("a\\1.mp4", ""), "line 3 has no id"),
        (text.replace(",well,40,", ",,40,"), "diagnosis is empty in 1 of 24 rows: leave them out with"),
        (text.replace("p0,well,40,", ",well,40,"), "patient is empty in 1 of 24 rows"),
        (text.replace(",", ";"), "semicolons"),
    ):
        labels.write_text(changed)
        with pytest.raises(feature_files.TableError, match=words):
            read(labels, right)


def test_names_and_files_of_the_command_line():
    assert feature_files.parse_features(["a=x.parquet", "b=y.parquet+z.parquet"]) == {
        "a": ["x.parquet"],
        "b": ["y.parquet", "z.parquet"],
    }
    long = f"{'n' * 21}=x"
    for items, words in ((["x.parquet"], "write NAME=FILE"), (["a=x", "a=y"], "twice"), ([long], "at most 20")):
        with pytest.raises(feature_files.TableError, match=words):
            feature_files.parse_features(items)


def test_readouts_of_one_file(labels, tmp_path):
    features = np.random.default_rng(0).normal(size=(COUNT, 3))
    metadata = {feature_table.READOUTS: json.dumps({"cls": 1, "mean": 2})}
    file = write(tmp_path / "a.parquet", features=features, metadata=metadata)
    readouts = read(labels, file).features["f0"][0].readouts
    assert list(readouts) == ["cls", "mean"]
    np.testing.assert_array_equal(readouts["mean"], features[:, 1:])
    assert list(read(labels, f"{file}:mean").features["f0"][0].readouts) == ["mean"]
    with pytest.raises(feature_files.TableError, match="holds cls, mean, no std"):
        read(labels, f"{file}:std")
    with pytest.raises(feature_files.TableError, match="other readouts or widths"):
        read(labels, f"{file}:mean+{write(tmp_path / 'b.parquet')}")


def test_copies_of_a_video_in_two_groups_are_told(labels, tmp_path):
    features = np.random.default_rng(0).normal(size=(COUNT, 3))
    assert read(labels, write(tmp_path / "a.parquet", features=features)).notes == []
    features[5] = features[20]
    notes = read(labels, write(tmp_path / "b.parquet", features=features)).notes
    assert len(notes) == 1 and "1 times videos of different groups have exactly the same features" in notes[0]


def test_the_command(labels, tmp_path, capsys):
    rng = np.random.default_rng(0)
    sick = np.arange(COUNT) // 2 % 2
    good = write(tmp_path / "good.parquet", features=sick[:, None] + 0.3 * rng.normal(size=(COUNT, 3)))
    seeds = [write(tmp_path / f"{seed}.parquet", features=rng.normal(size=(COUNT, 3))) for seed in range(2)]
    arguments = [f"--features=good={good}", f"--features=random={'+'.join(seeds)}", f"--labels={labels}"]
    arguments += ["--group=patient", "--repeats=2", "--folds=3", "--resamples=100"]
    out = tmp_path / "out"
    assert cross_validate.main([*arguments, "--label=diagnosis", f"--output={out}"]) == 0
    said = capsys.readouterr()
    assert "2 of 2 repeats (100 %)" in said.err and "0 s left" in said.err
    assert max(map(len, said.out.splitlines())) <= 100
    assert (out / "tables.md").read_text() == said.out
    results = json.loads((out / "results.json").read_text())
    assert list(results["encoders"]) == ["good", "random", "constant"]
    assert results["encoders"]["good"]["probe/auroc"]["value"] > 0.9
    assert results["paired"]["good - random"]["probe/auroc"]["low"] > 0
    assert results["classes"] == {"sick": {"videos": 12, "groups": 6}, "well": {"videos": 12, "groups": 6}}
    assert [len(file["sha256"]) for file in results["features"]["random"]] == [64, 64]
    with open(out / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == COUNT * 2 * 2 * (1 + 2 + 1)  # repeats, heads, encoders with their seeds
    assert {row["prediction"] for row in rows} == {"sick", "well"}
    assert "p1" not in {row["group"] for row in rows}, "patients are numbered"
    assert cross_validate.main([*arguments, "--target=ef", f"--output={tmp_path / 'ef'}"]) == 0
    assert "R2" in capsys.readouterr().out
    assert cross_validate.main([*arguments, "--label=diagnosis", "--folds=1", f"--output={out}"]) == 1
    assert capsys.readouterr().err.startswith("error: --folds and --inner_folds are at least 2")
