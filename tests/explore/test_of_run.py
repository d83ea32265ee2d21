"""A run's videos are those that it scored, with its features, labels and predictions; what does not fit is refused."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from discovr_jax.data import records
from discovr_jax.explore import clips, projection, sources
from discovr_jax.explore.__main__ import main
from discovr_jax.explore.videos import ExploreError
from tests import run_case


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    with run_case.evaluated(tiny, tmp_path_factory) as evaluated:
        yield evaluated


@pytest.fixture(scope="module")
def opened(run):
    return sources.open_videos(run[1])


def source(run, split):
    return records.open_source(run[0].data.data_dir, "echonet_dynamic", "112", split)


@pytest.fixture
def copy(run, tmp_path):
    """Of the run, to be damaged."""
    return shutil.copytree(run[1], tmp_path / "run")


def test_all_splits_are_there_in_the_order_of_their_records(run, opened):
    ids = [name for split in records.SPLITS for name in records.record_fields(source(run, split), ["id"])["id"]]
    assert list(opened.columns["id"]) == ids and len(opened) == 20
    assert list(opened.columns["split"]) == ["train"] * 10 + ["val"] * 5 + ["test"] * 5
    ef = opened.columns["ef"].to_numpy()
    assert list(opened.columns["label"]) == ["abnormal" if value < 57 else "normal" for value in ef]
    assert opened.categories() == ["split", "label"] and "ef" in opened.numbers()
    chosen = run[2]["readouts"]["knn"]["encoders"]["discovr"]["chosen"]
    assert opened.readout == f"{chosen} of step 3"


def test_predictions_are_those_of_the_evaluation(run, opened):
    with open(run[1] / "eval" / "3" / "predictions.csv", newline="") as file:
        said = {
            (row["family"], row["output"], row["id"]): float(row["prediction"])
            for row in csv.DictReader(file)
            if row["encoder"] == "discovr"
        }
    test = opened.columns[opened.columns["split"] == "test"].set_index("id")
    for name, row in test.iterrows():
        assert row["lvef_predicted"] == said["lvef", "", name] and row["anomaly_score"] == said["anomaly", "", name]
        assert row["probability_abnormal"] == said["probe", "probability", name]
        assert row["lvef_error"] == row["lvef_predicted"] - row["ef"]
    others = opened.columns[opened.columns["split"] != "test"]
    assert others[["lvef_predicted", "lvef_error", "anomaly_score", "neighbour_vote"]].isna().all(axis=None)


@pytest.mark.parametrize("readout", ["mean", "all"])
def test_another_readout_is_another_map(run, readout):
    found = sources.open_videos(run[1], readout=readout)
    assert found.features.shape[0] == 20 and found.readout.startswith(readout)


def test_the_map_is_the_same_each_time(opened):
    (first, axes), (second, _) = projection.project(opened.features), projection.project(opened.features.copy())
    np.testing.assert_array_equal(first, second)
    assert first.shape == (20, 2) and "% of variance" in axes[0]
    centred = opened.features - opened.features.mean(0)
    assert first[:, 0].var() >= centred.var(0).max() and abs(np.corrcoef(first.T)[0, 1]) < 1e-3


def test_a_clip_is_its_record(run, opened):
    record = source(run, "val")[1]
    clip = opened.clips.read(11)  # after ten of training
    np.testing.assert_array_equal(clip.frames, records.decode_frames(record["frames"], 112, 112))
    assert clip.fps == pytest.approx(record["fps"]) and set(clip.stills) == {"ed", "es"} and clip.by == "expert"
    at = list(record["mask_frames"]).index(record["es_frame"])
    np.testing.assert_array_equal(clip.stills["es"].mask, record["masks"][at] == 1)
    assert clip.stills["ed"].mask.sum() > clip.stills["es"].mask.sum()


def test_what_the_heads_say_is_what_predict_says(run, opened):
    clip = opened.clips.read(16)
    said = opened.heads.of(clip.frames, clip.fps)
    encoder = opened.heads._encoder
    prediction = encoder.predict(clip.frames)
    if prediction.out_of_distribution:
        assert said.words[0].startswith("Out of distribution") and not said.outlines
    else:
        assert said.words[0].startswith("ejection fraction") and said.outlines
    frames = [one.frame for one in encoder.predictor.cavities(clip.frames)]
    assert frames == sorted(set(frames)) and frames[-1] < len(clip.frames)
    drawn = {one.frame: one.mask for one in encoder.predictor.cavities(clip.frames)}
    shown = encoder.predict(clip.frames, show_out_of_distribution=True)
    for outline in shown.outlines.values():
        np.testing.assert_array_equal(drawn[outline.frame], outline.mask)
    areas = [mask.sum() for mask in drawn.values()]
    assert shown.outlines["ed"].mask.sum() == max(areas)
    numbers, maps, palette = said.prototypes
    assert maps.shape[0] == len(numbers) and maps.max() < len(palette) == run[0].model.num_prototypes
    assert numbers[0] == 0 and numbers[-1] < said.stop <= len(clip.frames)
    assert opened.heads.of(clip.frames, clip.fps).prototypes[1].tolist() == maps.tolist()


def test_a_run_without_an_evaluation_is_told_so(copy):
    (copy / "results.json").unlink()
    shutil.rmtree(copy / "eval" / "3")
    with pytest.raises(ExploreError, match="has no evaluation: evaluate it .*--mode=eval"):
        sources.open_videos(copy)
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(ExploreError, match="no checkpoint here.*train first"):
        sources.open_videos(copy)


def test_features_that_are_gone_damaged_or_of_another_checkpoint_are_refused(copy, opened):
    readout = opened.readout.split()[0]
    (kept,) = [path for path in (copy / "eval" / "features").glob("*-discovr-0-train-*") if path.stem.count("-") == 4]
    with np.load(kept) as archive:
        arrays = dict(archive)
    np.savez(kept, **(arrays | {readout: arrays[readout] + 1}))
    with pytest.raises(ExploreError, match="are of another checkpoint"):
        sources.open_videos(copy)
    np.savez(kept, **{name: each[1:] for name, each in arrays.items()})
    with pytest.raises(ExploreError, match="features of 9 videos of split train, the records 10"):
        sources.open_videos(copy)
    with pytest.raises(ExploreError, match="--readout=nonsense: .* holds cls"):
        sources.open_videos(copy, readout="nonsense")
    kept.write_bytes(kept.read_bytes()[:300])
    with pytest.raises(ExploreError, match="is damaged"):
        sources.open_videos(copy)
    kept.unlink()
    with pytest.raises(ExploreError, match="keeps no features of echonet_dynamic, split train"):
        sources.open_videos(copy)


def test_records_that_were_moved_are_found_where_they_are_said_to_be(run, copy, tmp_path):
    config = json.loads((copy / "config.json").read_text())
    config["data"]["data_dir"] = str(tmp_path / "gone")
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExploreError, match="No prepared records at .*gone.* --data_dir=DIR"):
        sources.open_videos(copy)
    assert len(sources.open_videos(copy, data_dir=run[0].data.data_dir)) == 20
    results = json.loads((copy / "results.json").read_text())
    (copy / "results.json").write_text(json.dumps(results | {"manifest_sha256": "0" * 64}))
    with pytest.raises(ExploreError, match="are not those that were scored"):
        sources.open_videos(copy, data_dir=run[0].data.data_dir)


def test_the_command_says_what_is_wrong(copy, tmp_path, capsys):
    pytest.importorskip("bokeh")
    for arguments, words in (
        ([str(tmp_path / "nothing")], "no such run or table"),
        ([str(copy), "--join=x.csv"], "--join: not for a run"),
        ([str(tmp_path)], "no checkpoint here"),
    ):
        assert main(arguments) == 1
        assert words in capsys.readouterr().err


def test_a_clip_plays_in_real_time(opened):
    clip = opened.clips.read(12)
    which = clips.played(len(clip.frames))
    assert len(which) == clips.MOST_FRAMES and which[0] == 0 and which[-1] == len(clip.frames) - 1
    with Image.open(io.BytesIO(clips.animation(clip, which))) as picture:
        assert picture.n_frames == clips.MOST_FRAMES and picture.size == (clips.SIDE, clips.SIDE)
        picture.load()
        seconds = picture.n_frames * picture.info["duration"] / 1000
    assert seconds == pytest.approx(len(clip.frames) / clip.fps, rel=0.05)
