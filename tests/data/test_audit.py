"""`prepare check` on records that are damaged or wrong, each in one way."""

import json
import shutil

import numpy as np
import pytest

from discovr_jax import prepare
from discovr_jax.data import audit, manifest, records
from tests import made_up
from tests.made_up import clip
from tfds_builders import echo_builder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return made_up.build(tmp_path_factory.mktemp("audit"), made_up.sound())


@pytest.fixture
def copy(built, tmp_path):
    """A copy of the records' folder that a test may damage."""
    path = tmp_path / "made_up" / "112" / records.BUILDER_VERSION
    shutil.copytree(built, path)
    return path


def problems_with(tmp_path, *clips, note=None) -> list[str]:
    return audit.check(made_up.build(tmp_path, made_up.sound(*clips)), note=note)


def test_sound_records(built):
    notes = []
    assert audit.check(built, note=notes.append) == [] and notes == []


@pytest.mark.parametrize("split", records.SPLITS)
def test_a_flipped_byte(copy, split):
    shard = next(copy.glob(f"*-{split}.array_record*"))
    data = np.frombuffer(shard.read_bytes(), np.uint8).copy()
    # Files are padded with zeros; the middle of the rest lies in the records.
    data[np.median(np.flatnonzero(data)).astype(int)] ^= 0xFF
    shard.write_bytes(data.tobytes())
    problems = audit.check(copy)
    assert problems and f"'{split}'" in problems[0]


def test_a_cut_shard_and_a_missing_one(copy):
    shard = next(copy.glob("*-val.array_record*"))
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    (problem,) = audit.check(copy)
    assert "damaged" in problem and shard.name in problem
    shard.unlink()
    (copy / "metadata.json").rename(copy / "elsewhere.json")
    assert any("metadata.json" in problem for problem in audit.check(copy))


def test_more_shards_in_the_metadata_than_files(copy):
    info = copy / "dataset_info.json"
    content = json.loads(info.read_text())
    content["splits"][0]["shardLengths"] = ["3"]
    info.write_text(json.dumps(content))
    (problem,) = audit.check(copy)
    assert "holds 2 records, not 3" in problem


def test_a_frame_that_cannot_be_decoded(built, monkeypatch):
    # A build reads its records back and would not finish with such a frame; so it is damaged in the reader.
    read = records.RecordSource.__getitem__

    def damaged(self, index):
        record = read(self, index)
        if record["id"] == "b":
            record["frames"][3] = record["frames"][3][:20]
        return record

    monkeypatch.setattr(records.RecordSource, "__getitem__", damaged)
    problems = audit.check(built)
    assert "Record b: frame 3 is damaged" in problems[0]
    assert problems[1:] == ["train record b is in manifest.csv but not readable."]


@pytest.mark.parametrize(
    "fields,problem",
    [
        ({"ef": 130.0}, "ef is 130: ef is outside 2 to 100 percent."),
        ({"ef": -3.0}, "ef is -3: ef is outside 2 to 100 percent."),
        ({"ef": 0.5}, "it seems to be a fraction of 1: give percent (times 100)."),
        ({"fps": 0.0}, "fps is 0: fps is outside 1 to 1000 frames per second."),
        ({"ivsd": 11.0}, "it seems to be in millimetres: give cm (times 0.1)."),
        ({"edv": 1200.0, "esv": 40.0}, "edv is 1200: edv is outside 0.35 to 1000 mL."),
        ({"edv": 0.09, "esv": 40.0}, "edv is 0.09: edv is outside 0.35 to 1000 mL; it seems to be in litres"),
        ({"edv": 90.0, "esv": 4000.0}, "esv is 4000: esv is outside 0.02 to 1000 mL."),
        ({"source_label": 2}, "source_label is 2, not -1, 0 or 1."),
        ({"ed_frame": 5}, "ed_frame is 5, there are 5 frames."),
        ({"es_frame": -2}, "es_frame is -2, there are 5 frames."),
        ({"num_frames": 4}, "num_frames is 4, there are 5 frames."),
        ({"mask_frames": [5]}, "mask_frames [5] reach outside the 5 frames."),
        ({"mask_frames": [1, 2]}, "masks, mask_frames and mask_is_expert differ in length: [1, 2]."),
        ({"pixel_spacing": [0.0, 0.3]}, "pixel_spacing is [0.0, "),
        ({"pixel_spacing": [np.nan, 0.5]}, "pixel_spacing is [nan, 0.5] mm"),
        (
            {"masks": records.encode_frames(np.full((1, 112, 112), 4, np.uint8))},
            "masks hold class 4, known are 0 to 3.",
        ),
    ],
)
def test_values_that_cannot_be(tmp_path, monkeypatch, fields, problem):
    # Pictures of such records cannot all be made, and today's builder refuses some of the values.
    monkeypatch.setattr(made_up.Builder, "_write_contact_sheet", lambda self, sources: None)
    monkeypatch.setattr(echo_builder, "_plausible", lambda clips, notes: clips)
    problems = problems_with(tmp_path, clip("b", "train", "p1", **fields))
    assert len(problems) == 1 and problems[0].startswith("train record b: ") and problem in problems[0]


def test_a_heart_that_is_larger_in_systole(tmp_path, monkeypatch):
    """Nothing says which of the two volumes is wrong: both are named."""
    monkeypatch.setattr(echo_builder, "_plausible", lambda clips, notes: clips)
    problems = problems_with(tmp_path, clip("b", "train", "p1", edv=80.0, esv=90.0))
    assert [problem.split(" of a heart")[0] for problem in problems] == [
        "train record b: edv is 80: edv is", "train record b: esv is 90: esv is",
    ]  # fmt: skip


def test_another_schema_in_a_record(tmp_path):
    # TFDS's shuffling puts b first; the first record stops the opening of a split.
    problems = problems_with(tmp_path / "b", clip("b", "train", "p1", schema_version=7))
    assert len(problems) == 1 and "have schema version 7 and fields of version 2" in problems[0]
    problems = problems_with(tmp_path / "a", clip("a", "train", "p1", schema_version=7))
    assert problems == ["train record a: schema version 7, this code reads (1, 2)."]


def test_the_same_frames_twice(tmp_path):
    notes = []
    problems = problems_with(
        tmp_path, clip("a", "train", "p1", seed=1), clip("e", "train", seed=1), clip("d", "test", seed=5),
        clip("c", "val", seed=5), note=notes.append,
    )  # fmt: skip
    assert problems == ["the same frames in several splits: test d, val c."]
    assert notes == ["the same frames twice in one split: train a, train e."]


def test_a_patient_in_two_splits(tmp_path, monkeypatch):
    from tfds_builders import echo_builder

    monkeypatch.setattr(echo_builder, "_check_splits", lambda clips: None)
    assert problems_with(tmp_path, clip("e", "test", "p1")) == [
        "patient p1 in several splits: test e, train a, train b."
    ]


def edit(copy, name: str, old: str, new: str) -> list[str]:
    text = (copy / name).read_text()
    assert old in text
    (copy / name).write_text(text.replace(old, new, 1))
    return audit.check(copy)


def test_frames_other_than_the_manifest_lists(copy):
    digest = manifest.rows(copy)[0]["sha256"]
    problems = edit(copy, "manifest.csv", digest, "0" * 64)
    assert len(problems) == 2 and "manifest.csv was changed since the build" in problems[0]
    assert "its frames are not those that manifest.csv lists" in problems[1]


def test_a_record_that_only_the_manifest_has(copy):
    problems = edit(copy, "manifest.csv", "val,", f"val,0,0,,lost{18 * ','}\nval,")
    assert "val record lost is in manifest.csv but not readable." in problems


def test_counts_of_the_metadata(copy):
    patients = json.loads((copy / "metadata.json").read_text())["patients"]
    assert patients == {"train": 1, "val": 1, "test": 1}
    (problem,) = edit(copy, "metadata.json", '"train": 1', '"train": 2')
    assert problem.endswith("metadata.json says {'train': 2, 'val': 1, 'test': 1}.")
    # A reason may have lines of its own.
    (copy / "quarantine.csv").write_text('file,reason\nx.avi,"gone\nfor ever"\n')
    assert any("quarantine.csv lists 1, metadata.json 0" in problem for problem in audit.check(copy))


def test_another_schema_or_frame_size(copy):
    (problem,) = edit(copy, "metadata.json", '"schema_version": 2', '"schema_version": 9')
    assert "metadata.json: schema version 9, this code reads (1, 2)." == problem
    problems = edit(copy, "metadata.json", '"frame_size": 112', '"frame_size": 224')
    assert problems == [problem, "metadata.json: frame_size 224, but the folder is 112."]


def test_options_of_another_kind(copy):
    (problem,) = edit(copy, "metadata.json", '"options": {}', '"options": [1]')
    assert "damaged (notes, options or quarantined of another kind)" in problem


def test_missing_manifest(copy):
    (copy / "manifest.csv").unlink()
    assert audit.check(copy) == [f"{copy / 'manifest.csv'} is missing; prepare the records again."]


def test_exit_codes_and_notes(tmp_path, capsys):
    path = made_up.build(tmp_path, made_up.sound(clip("a", "train", "p1", seed=1), clip("b", "train", "p1", seed=1)))
    assert prepare.main(["check", str(path)]) == 0
    out = capsys.readouterr().out
    assert "note: the same frames twice in one split: train a, train b." in out
    assert out.splitlines()[-2] == "note: no video is abnormal (ef < 50): no AUROC"
    assert "train: 2 records, 1 patients" in out and out.endswith("No problems found.\n")
    (path / "quarantine.csv").unlink()
    assert prepare.main(["check", str(path)]) == 1
    assert capsys.readouterr().out.endswith("1 problem(s) found.\n")
    assert prepare.main(["check", str(tmp_path / "nowhere")]) == 1


def test_a_summary_of_classes_alone_says_that_measurements_are_unknown(tmp_path):
    """"known: no label" above the counts of a class read as if there were none."""
    clips = [clip(name, "train", ef=np.nan, source_label=label) for name, label in (("a", 0), ("b", 1), ("e", -1))]
    lines = audit.format_summary(audit.summarise(made_up.build(tmp_path, made_up.sound(*clips)))).splitlines()
    here = lines.index("         measurements known: none")
    assert lines[here + 1] == "         class: 1 normal, 1 abnormal, 1 unknown" and "source_label" not in "".join(lines)


def test_a_summary_counts_frame_rates_that_are_unknown(tmp_path):
    """A training that goes by the frame rate stops at the first such video."""
    more = clip("a", "train", "p1", fps=50.0), clip("b", "train", "p1", fps=50.0), clip("c", "val", fps=50.0)
    summary = audit.summarise(made_up.build(tmp_path / "one", made_up.sound(*more)))
    assert "  frame rate unknown: 1 of 4" in audit.format_summary(summary).splitlines()
    lines = audit.format_summary(summary | {"csv": True}).splitlines()
    assert "  frame rate unknown: 1 of 4 (give `fps` in the CSV)" in lines
    path = made_up.build(tmp_path / "none", made_up.sound(*more, clip("d", "test", fps=50.0)))
    assert "frame rate unknown" not in audit.format_summary(audit.summarise(path))


def gaps(tmp_path, split="", **counts) -> list[str]:
    """Of records with these numbers of normal, abnormal and unknown videos in each split."""
    clips = [
        clip(f"{name}{label}{number}", name, source_label=label, ef=np.nan)
        for name, of_split in counts.items()
        for label, count in zip((0, 1, -1), of_split, strict=True)
        for number in range(count)
    ]
    return audit.class_gaps(audit.summarise(made_up.build(tmp_path, clips)) | {"split": split})


@pytest.mark.parametrize(
    "counts,line",
    [
        ({"train": (1, 1, 0), "val": (1, 1, 1), "test": (1, 1, 0)}, None),
        ({"train": (0, 0, 1), "val": (0, 0, 1), "test": (0, 0, 1)}, None),  # without labels nothing is missing
        ({"train": (1, 1, 0), "val": (1, 1, 0), "test": (0, 2, 1)}, "test holds no normal video (class)"),
        (
            {"train": (1, 1, 0), "val": (1, 0, 0), "test": (0, 0, 2)},
            "val holds no abnormal video, test holds no labelled video (class)",
        ),
        ({"train": (1, 1, 0), "val": (1, 1, 0)}, "test holds no labelled video (class)"),
    ],
)
def test_a_split_of_one_class_is_told_of(tmp_path, counts, line):
    assert gaps(tmp_path, **counts) == ([f"{line}: no AUROC there"] if line else [])


def test_a_hashed_split_of_one_class_is_told_with_another_split(tmp_path):
    test_lacks = {"train": (1, 1, 0), "val": (1, 1, 0), "test": (0, 1, 0)}
    assert gaps(tmp_path / "hashed", "hashed:80/10/10", **test_lacks) == [
        "test holds no normal video (class): no AUROC there; `--split=stratified:70/10/20 --stratify=class` and "
        "another --data_dir cut it by class (the CSV then has no column split)"
    ]
    assert gaps(tmp_path / "no", "hashed:80/10/10", train=(1, 0, 0), val=(1, 0, 0), test=(1, 0, 0)) == [
        "no video is abnormal (class): no AUROC"  # which no other split would change
    ]


def test_a_rule_tells_of_splits_where_the_set_states_no_class(tmp_path):
    clips = [clip(name, name[:-1], ef=ef) for name, ef in (("train1", 40.0), ("train2", 60.0), ("val1", 60.0))]
    summary = audit.summarise(made_up.build(tmp_path, clips)) | {"split": "hashed:80/10/10"}
    (line,) = audit.class_gaps(summary)
    assert line.startswith("val holds no abnormal video, test holds no labelled video (ef < 50): no AUROC there; ")
    assert "--stratify=ef` and another --data_dir cut it by ef " in line


@pytest.mark.parametrize("unknown,shown", [(0, "1 patients"), (1, "at most 1 patients"), (4, "patients unknown")])
def test_a_summary_counts_no_patients_that_nobody_knows(built, unknown, shown):
    summary = audit.summarise(built) | {"notes": {"patients_unknown": unknown, "class_unknown": 3}}
    lines = audit.format_summary(summary).splitlines()
    assert any(line.startswith(f"  train: 2 records, {shown}, 10 frames") for line in lines)
    said = f"  patient unknown: {unknown} files, each counted as one patient; splits may share patients"
    assert (said in lines) == bool(unknown) and "  source: class_unknown 3" in lines
