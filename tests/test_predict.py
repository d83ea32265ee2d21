"""Predictions are those that the evaluation scored; what must not be predicted from is refused, listed or withheld."""

import csv
import io
import json
import shutil

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import discovr_jax
from discovr_jax import predict, prediction_pictures, predictor, slim
from discovr_jax.data import records
from discovr_jax.evaluation import evaluate, fitted_heads
from discovr_jax.evaluation.evaluators import segmentation
from discovr_jax.evaluation.metrics import masks as mask_metrics
from discovr_jax.method import experiment as experiment_lib
from tests import run_case
from tests.builder_case import write_video
from tests.test_privacy import write_dicom

LVEF = ("lvef", "lvef_low", "lvef_high")


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    with run_case.evaluated(tiny, tmp_path_factory) as evaluated:
        yield evaluated


@pytest.fixture(scope="module")
def encoder(run):
    return discovr_jax.load_encoder(run[1])


@pytest.fixture(scope="module")
def test_videos(run):
    source = records.open_source(run[0].data.data_dir, "echonet_dynamic", "112", "test")
    taken = [source[index] for index in range(len(source))]
    return [record["id"] for record in taken], [records.decode_frames(record["frames"], 112, 112) for record in taken]


def scored(folder, family, output=""):
    """{id: prediction} of the studied encoder in predictions.csv."""
    with open(folder / "eval" / "3" / "predictions.csv", newline="") as file:
        return {
            row["id"]: float(row["prediction"])
            for row in csv.DictReader(file)
            if (row["encoder"], row["family"], row["output"]) == ("discovr", family, output)
        }


def test_heads_are_kept_at_the_end_only(run, tiny, tmp_path):
    config, folder, results = run
    shutil.copytree(folder / "eval" / "features", tmp_path / "eval" / "features")
    experiment, mesh = experiment_lib.make_experiment(config, 10), run_case.one_device(None)
    config = config.copy_and_resolve_references()
    config.eval.random_seeds = 0  # a table without untrained encoders
    during = evaluate.evaluate_state(config, tmp_path, tiny.state, 2, experiment, mesh)
    assert set(during["encoders"]) == {"discovr", "pixels"}
    assert "heads" not in during and not list(tmp_path.rglob(fitted_heads.FILE))
    assert during["encoders"]["discovr"]["lvef/mae"] == results["encoders"]["discovr"]["lvef/mae"]
    assert [path.parent.name for path in folder.rglob(fitted_heads.FILE)] == ["3"]
    assert set(results["heads"]["parts"]) == {"knn", "anomaly", "probe", "lvef", "segmentation"}
    assert results["heads"]["intervals"]["lvef"]["half_width"] == np.inf  # of five validation videos


def test_predictions_are_those_of_the_evaluation(run, encoder, test_videos):
    ids, videos = test_videos
    assert "pixels" in encoder.predictor.heads.readouts  # for the distance from the training videos
    found = encoder.predict(videos, show_out_of_distribution=True)
    for family, output, values in (
        ("lvef", "", [one.measurements["lvef"].value for one in found]),
        ("probe", "probability", [one.probability_abnormal for one in found]),
        ("knn", "", [one.neighbour_vote for one in found]),
        ("anomaly", "", [one.anomaly_score for one in found]),
    ):
        expected = scored(run[1], family, output)
        assert len(expected) == len(ids) == 5
        np.testing.assert_allclose(values, [expected[name] for name in ids], rtol=1e-6, atol=1e-6, err_msg=family)
    thresholds = run[2]["readouts"]["anomaly"]["encoders"]["discovr"]["details"][0]["thresholds"]
    assert {one.anomaly_threshold for one in found} == {thresholds["95"]}
    assert all(one.measurements["lvef"].low == -np.inf and one.notice == fitted_heads.RESEARCH_USE for one in found)
    with open(run[1] / "results.json") as file:
        assert json.load(file)["heads"]["intervals"]["lvef"]["half_width"] is None
    single = encoder.predict(videos[0], show_out_of_distribution=True)
    assert single.measurements["lvef"].value == pytest.approx(found[0].measurements["lvef"].value, rel=1e-6)


def test_a_slim_copy_of_the_run_predicts_the_same(run, encoder, test_videos, tmp_path):
    def size(folder):
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    small = slim.write(run[1], tmp_path / "slim")
    assert size(small / "checkpoints") < size(run[1] / "checkpoints") / 2
    video = test_videos[1][0]
    copied = discovr_jax.load_encoder(small)
    np.testing.assert_array_equal(copied.embed(video), encoder.embed(video))
    mine, theirs = (one.predict(video, show_out_of_distribution=True) for one in (copied, encoder))
    assert mine.measurements["lvef"].value == theirs.measurements["lvef"].value
    with pytest.raises(ValueError, match="exists and is not empty"):
        slim.write(run[1], small)
    without = discovr_jax.load_encoder(slim.write(run[1], tmp_path / "without", heads=False))
    with pytest.raises(fitted_heads.HeadsError):
        without.predict(video)


def test_the_kept_segmentation_head_draws_what_was_scored(run, encoder):
    """On the tokens of the labelled test frames, which the evaluation keeps."""
    config, folder, _ = run
    heads = encoder.predictor.heads
    options, model = heads.about["heads"]["segmentation"]["options"], encoder.model
    (file,) = (folder / "eval" / "features").glob("echonet_dynamic-discovr-0-test-frames-*.npz")
    (truth,) = (folder / "eval" / "features").glob("echonet_dynamic-masks-test-*.npz")
    with np.load(file) as archive, np.load(truth) as labelled:
        frames, masks, record, frame = archive["tokens"], labelled["masks"], labelled["record"], labelled["frame"]
    fitted = heads.fitted("segmentation")
    maps = segmentation.apply("linear", fitted, frames, model.grid, model.patch, options["classes"], options["size"])
    source = records.open_source(config.data.data_dir, "echonet_dynamic", "112", "test")
    expected, dice = scored(folder, "segmentation", "dice"), mask_metrics.dice(masks == 1, maps == 1)
    for row, value in enumerate(dice):
        assert value == pytest.approx(expected[f"{source[int(record[row])]['id']}:{frame[row]}"], abs=1e-9)
    assert len(dice) == len(expected) > 0


def test_outlines_lie_where_the_cavity_is_largest_and_smallest(encoder, test_videos, monkeypatch):
    """A head that draws a square whose side grows with the tubelet's number: first and last of the real ones."""
    video = test_videos[1][0][:10]  # of its clips of 4 frames at stride 3 all are real, in two tubelets

    def draws(head, fitted, frames, grid, patch, classes, size):
        maps = np.zeros((len(frames), size, size), np.uint8)
        for row, one in enumerate(maps):
            one[10 : 20 + row, 10:20] = segmentation.CAVITY
        return maps

    monkeypatch.setattr(predictor.segmentation, "apply", draws)
    made = encoder.predict(video, show_out_of_distribution=True).outlines
    assert (made["es"].frame, made["ed"].frame) == (0, 6)
    assert made["ed"].mask.shape == (112, 112) and made["ed"].mask.sum() == 10 * (10 + 3)  # the second clip's second
    monkeypatch.setattr(predictor.segmentation, "apply", lambda *a: np.zeros((len(a[2]), 112, 112), np.uint8))
    assert encoder.predict(video, show_out_of_distribution=True).outlines == {}


def test_a_mask_lies_in_the_video_where_it_lay_in_the_letterboxed_frame():
    mask = np.zeros((112, 112), bool)
    mask[28:56, 28:56] = True  # the letterbox of 100 x 200 is 56 x 112, 28 rows below the top
    found = predictor.mask_in_video(mask, (100, 200))
    assert found.shape == (100, 200) and found[:48, 52:98].all() and not found[54:].any() and not found[:, 104:].any()
    wide = predictor.mask_in_video(mask, (100, 200), (2.0, 1.0))  # square, as pixels are twice as high
    assert wide[26:48, 52:98].all() and not wide[:22].any()


@pytest.fixture
def archive(run, test_videos, tmp_path):
    """A test video, noise, a still and a cut-off file."""
    folder = tmp_path / "archive"
    folder.mkdir()
    native = run[0].data.data_dir + "/native/echonet_dynamic/Videos"
    shutil.copy(f"{native}/{test_videos[0][0]}.avi", folder / "a.avi")
    rng = np.random.default_rng(0)
    write_video(folder / "noise.avi", rng.integers(0, 256, (40, 112, 112), dtype=np.uint8))
    np.save(folder / "still.npy", np.repeat(test_videos[1][1][:1], 20, axis=0))
    (folder / "cut.avi").write_bytes((folder / "a.avi").read_bytes()[:3000])
    return folder


def rows(path):
    return {row["id"]: row for row in pq.read_table(path).to_pylist()}


def test_the_tables(run, encoder, archive, tmp_path, capsys):
    out, pictures = tmp_path / "out" / "p.parquet", tmp_path / "pictures"
    arguments = [f"--workdir={run[1]}", f"--input={archive}", f"--output={out}", f"--pictures={pictures}"]
    assert predict.main([*arguments, "--show_out_of_distribution"]) == 0
    said = capsys.readouterr()
    assert fitted_heads.RESEARCH_USE in said.out and "s left" in said.err and "2 rows in" in said.out
    first, second = (line for line in said.out.splitlines() if line.startswith("row "))
    assert first.startswith("row 0: ") and "ejection fraction " in first and "probability of abnormal" in first
    assert second.startswith("row 2: out of distribution: unlike") and "ejection fraction" in second
    assert pq.read_schema(out).metadata[b"notice"].decode() == fitted_heads.RESEARCH_USE
    found = rows(out)
    assert list(found) == ["a.avi", "noise.avi"] and all(row["notice"] for row in found.values())
    one = found["a.avi"]
    assert np.isfinite(one["lvef"]) and one["lvef_low"] == -np.inf and 0 <= one["probability_abnormal"] <= 1
    assert len(one["nearest"]) == predictor.NEAREST and one["nearest_similarity"][0] >= one["nearest_similarity"][1]
    for kind, name in (("quarantine", "cut.avi"), ("skipped", "still.npy")):
        with open(out.with_suffix(f".{kind}.csv"), newline="") as file:
            assert [row["id"] for row in csv.DictReader(file)] == [name]
    card = json.loads(out.with_suffix(".card.json").read_text())
    assert card["notice"] == fitted_heads.RESEARCH_USE and card["heads"]["heads"]["lvef"]["field"] == "ef"
    assert sorted(path.name for path in pictures.iterdir()) == ["000000.png", "000002.png"]
    with Image.open(pictures / "000000.png") as picture:
        assert picture.size[0] == 672 and picture.size[1] > 336
    assert not predict.studies_of(out).exists()


@pytest.mark.parametrize("name", ["p.csv", "p.json", "p", "folder.parquet"])
def test_a_table_that_would_not_be_parquet_is_refused(run, archive, tmp_path, capsys, name):
    (tmp_path / "folder.parquet").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert predict.main([f"--workdir={run[1]}", f"--input={archive}", f"--output={tmp_path / name}"]) == 1
    assert "the table is Parquet, give a file that ends in .parquet" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_numbers_of_strange_videos_are_withheld(encoder, archive, tmp_path):
    card = predict.predict(encoder, archive / "noise.avi", tmp_path / "p.parquet")
    (line,) = predict.told(tmp_path / "p.parquet", card)
    assert line.startswith("row 0: out of distribution, numbers withheld: unlike") and "ejection" not in line
    (row,) = pq.read_table(tmp_path / "p.parquet").to_pylist()
    assert row["out_of_distribution"] and row["distance"] > row["distance_threshold"] and "unlike" in row["why"]
    numbers = (*LVEF, "probability_abnormal", "neighbour_vote", "anomaly_score", "lv_ed_frame", "lv_ed_mask_png")
    assert [row[name] for name in numbers] == [None] * len(numbers)


def test_masks_and_studies(encoder, archive, test_videos, tmp_path, monkeypatch):
    """A screen recording whose sector is cut out: the mask has the file's size; two clips of one study, one alone."""
    shown = [test_videos[1][row] for row in (0, 1, 2)]
    for number, video in enumerate(shown):
        np.save(archive / f"s{number}.npy", np.pad(video, ((0, 0), (40, 30), (20, 60))))
    (archive / "list.csv").write_text("path,Study_ID\ns0.npy,DOE one\ns1.npy,DOE one\ns2.npy,two\na.avi,\n")
    monkeypatch.setattr(
        predictor.segmentation, "apply", lambda *a: np.ones((len(a[2]), 112, 112), np.uint8)
    )
    out = tmp_path / "p.parquet"
    predict.predict(encoder, archive / "list.csv", out, show_out_of_distribution=True, use_fps=False)
    found = rows(out)
    mask = np.asarray(Image.open(io.BytesIO(found["s0.npy"]["lv_ed_mask_png"])))
    assert mask.shape == (182, 192) and mask.dtype == bool and "sector_isolated" in found["s0.npy"]["flags"]
    assert mask[60:140, 40:120].all() and not mask[:35].any() and not mask[:, 140:].any()
    studies = pq.read_table(predict.studies_of(out))
    assert studies.schema.metadata[b"notice"].decode() == fitted_heads.RESEARCH_USE
    by_clips = {row["clips"]: row for row in studies.to_pylist()}
    assert set(by_clips) == {1, 2} and not any("DOE" in row["study"] for row in by_clips.values())
    assert by_clips[2]["study"] == found["s0.npy"]["study"] == found["s1.npy"]["study"] != found["s2.npy"]["study"]
    assert by_clips[2]["lvef"] == pytest.approx((found["s0.npy"]["lvef"] + found["s1.npy"]["lvef"]) / 2)
    assert found["a.avi"]["study"] is None


def test_rates_and_studies_of_a_folder_come_from_a_csv(encoder, test_videos, tmp_path):
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "x.npy", test_videos[1][0])
    (tmp_path / "list.csv").write_text("Path,class,fps,study_id\nx,Normal,25,DOE one\n")
    out, options = tmp_path / "p.parquet", {"show_out_of_distribution": True}
    predict.predict(encoder, tmp_path / "in", out, csv=tmp_path / "list.csv", whole_frame=True, **options)
    (row,) = pq.read_table(out).to_pylist()
    assert row["fps"] == 25 and "DOE" not in row["study"]
    wanted = encoder.predict(test_videos[1][0], fps=25, **options).measurements["lvef"].value
    assert row["lvef"] == pytest.approx(wanted, rel=1e-5)


def test_a_dicom_names_its_study_by_a_hash_and_shows_no_doppler(encoder, test_videos, tmp_path):
    pydicom = pytest.importorskip("pydicom", reason="reading DICOM needs pydicom")
    path = pydicom.examples.get_path("ybr_color")
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(path, folder / "x.dcm")
    colour = np.repeat(test_videos[1][0][..., None], 3, axis=3)
    colour[:, 40:80, 40:80] = (220, 20, 20)
    np.save(folder / "doppler.npy", colour)
    out = tmp_path / "out" / "p.parquet"
    for options in ({}, {"whole_frame": True}):
        shutil.rmtree(out.parent, ignore_errors=True)
        card = predict.predict(encoder, folder, out, show_out_of_distribution=True, **options)
        (row,) = pq.read_table(out).to_pylist()
        assert (row["format"], len(row["study"]), card["skipped"]) == ("dcm", 16, 1)
    content = b"".join(path.read_bytes() for path in out.parent.iterdir())
    assert b"1.2.840" not in content and b"colour Doppler" in content
    made = encoder.predict(colour)
    assert made.out_of_distribution and "colour Doppler" in made.reasons[0] and np.isnan(made.probability_abnormal)


def test_dicom_files_for_dicom_inputs_alone(run, encoder, test_videos, tmp_path, monkeypatch, capsys):
    """A recording of a screen, the same without a study, and a plain array; killed after the first, then gone on."""
    pytest.importorskip("highdicom", reason="an extra: dicom")
    pydicom = pytest.importorskip("pydicom")
    folder, out, reports = tmp_path / "in", tmp_path / "p.parquet", tmp_path / "dicom"
    folder.mkdir()
    recording = np.pad(test_videos[1][0], ((0, 0), (40, 30), (20, 60)))
    write_dicom(folder / "a.dcm", recording)
    write_dicom(folder / "b.dcm", recording, StudyInstanceUID="")
    np.save(folder / "c.npy", recording)
    monkeypatch.setattr(predictor.segmentation, "apply", lambda *a: np.ones((len(a[2]), 112, 112), np.uint8))

    def killed(*arguments):
        if arguments[1] == 1:
            raise KeyboardInterrupt
        return write(*arguments)

    write = predict.dicom_files.write
    arguments = [f"--workdir={run[1]}", f"--input={folder}", f"--output={out}", f"--dicom={reports}", "--ignore_fps"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(predict.dicom_files, "write", killed)
        predict.main([*arguments, "--show_out_of_distribution"])
    first = {path.name: path.read_bytes() for path in reports.iterdir()}
    capsys.readouterr()
    assert predict.main([*arguments, "--show_out_of_distribution"]) == 0
    said = capsys.readouterr().out
    assert f"DICOM in {reports}: 1 report and segmentation" in said and "1 no report: not a DICOM file" in said
    assert "1 no report: its header lacks StudyInstanceUID" in said
    assert {path.name: path.read_bytes() for path in reports.iterdir()} == first
    assert sorted(first) == ["000000.seg.dcm", "000000.sr.dcm"]
    found = pq.read_table(out).to_pylist()[0]
    drawn = pydicom.dcmread(reports / "000000.seg.dcm")
    for number, phase in enumerate(predictor.PHASES):
        mask = np.asarray(Image.open(io.BytesIO(found[f"lv_{phase}_mask_png"])))
        np.testing.assert_array_equal(drawn.pixel_array[number].astype(bool), mask)
        groups = drawn.PerFrameFunctionalGroupsSequence[number]
        (source,) = groups.DerivationImageSequence[0].SourceImageSequence
        assert source.ReferencedFrameNumber == found[f"lv_{phase}_frame"] + 1
    assert str(found["lvef"])[:12] in str(pydicom.dcmread(reports / "000000.sr.dcm"))
    assert "90210777" not in said + out.with_suffix(".card.json").read_text() + str(found)
    (reports / "000000.seg.dcm").unlink()
    assert predict.main([*arguments, "--show_out_of_distribution"]) == 1
    assert "lacks 1 of 2 files" in capsys.readouterr().err


def test_stills_and_short_clips(encoder, test_videos):
    video = test_videos[1][0]
    for still in (video[:1], np.repeat(video[:1], 30, axis=0)):
        with pytest.raises(ValueError, match="video 0 is a still"):
            encoder.predict(still)
    assert any("shorter than every training video" in why for why in encoder.predict(video[:3]).reasons)


def test_a_picture_that_stands_still_for_most_of_the_time_is_withheld(encoder, test_videos):
    """Frozen, or of fewer frames per second than the clips: frames are then taken twice."""
    video = test_videos[1][0]
    frozen = np.concatenate([np.repeat(video[:1], len(video) - 1, axis=0), video[20:21]])
    rate = encoder.options["trained_fps"]
    assert not any("stands still" in why for why in encoder.predict(video, fps=rate).reasons)
    for made in (encoder.predict(frozen), encoder.predict(video, fps=rate / 4)):
        assert any("stands still" in why for why in made.reasons)
        assert made.out_of_distribution and np.isnan(made.measurements["lvef"].value)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("ef", 90.0, (70.0, 100.0)), ("ef", 10.0, (0.0, 30.0)), ("ef", 104.0, (84.0, 104.0)), ("edv", 90.0, (70, 110)),
        ("edv", 10.0, (0.0, 30.0)), ("ef", np.nan, (np.nan, np.nan)),
    ],
)  # fmt: skip
def test_an_interval_holds_nothing_that_no_heart_has(encoder, monkeypatch, field, value, expected):
    monkeypatch.setattr(encoder.predictor, "_head", lambda _: {"field": field, "interval": {"half_width": 20.0}})
    np.testing.assert_array_equal(encoder.predictor.interval("lvef", value), expected)
    made = jax.jit(lambda value: encoder.predictor.interval("lvef", value))(value)
    np.testing.assert_array_equal(made, np.float32(expected))


def test_other_clips_weights_or_no_heads_are_refused(run, encoder, test_videos, tmp_path):
    folder, video = run[1], test_videos[1][0]
    for options, words in (
        ({"image_size": 48}, "image_size = 32, this encoder makes them with 48"),
        ({"num_frames": 8}, "num_frames = 4"),
        ({"clips": 1}, "clips = 2"),
        ({"fit": "squeeze"}, "fit = letterbox"),
        ({"branch": "video_student", "readout": "cls"}, "heads are of branch video_teacher"),
    ):
        with pytest.raises(fitted_heads.HeadsError, match=words):
            discovr_jax.load_encoder(folder, **options).predict(video)
    copy = tmp_path / "run"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("features"))
    heads = copy / "eval" / "3" / fitted_heads.FILE
    read = fitted_heads.read(heads)
    fitted_heads._save(heads, read.arrays, dict(read.about) | {"weights_sha256": {"video_encoder": "0" * 64}})
    with pytest.raises(fitted_heads.HeadsError, match="belong to another encoder"):
        discovr_jax.load_encoder(copy).predict(video)
    heads.unlink()
    with pytest.raises(fitted_heads.HeadsError, match="no such file: evaluate again"):
        discovr_jax.load_encoder(copy).predict(video)
    (copy / "results.json").unlink()
    shutil.rmtree(copy / "eval")
    with pytest.raises(fitted_heads.HeadsError, match="were not evaluated"):
        discovr_jax.load_encoder(copy).predict(video)
    (tmp_path / "a.npy").write_bytes(b"")
    arguments = [f"--workdir={copy}", f"--input={tmp_path}", f"--output={tmp_path / 'p.parquet'}"]
    assert predict.main(arguments) == 1


def test_errors_of_the_command_are_one_line(run, tmp_path, capsys):
    assert predict.main([f"--workdir={tmp_path}", f"--input={tmp_path}", f"--output={tmp_path / 'p.parquet'}"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and "no checkpoint" in said


def test_words_of_a_picture():
    low = predictor.Measurement("ef", "%", 55.0, 41.0, 69.0)
    made = predictor.Prediction({"lvef": low}, 0.25, 0.5, 0.1, 0.2, False, (), 0.5, 1.0, (), {})
    assert prediction_pictures.words(made) == [
        "ejection fraction 55 % (90 % interval 41 to 69)", "probability of abnormal 0.25",
    ]  # fmt: skip
    withheld = predictor.Measurement("ef", "%", np.nan, np.nan, np.nan)
    made = predictor.Prediction({"lvef": withheld}, np.nan, np.nan, np.nan, 0.2, True, ("odd",), 2.0, 1.0, (), {})
    assert prediction_pictures.words(made) == ["Out of distribution: odd", "Numbers are withheld."]
