"""Segmentation from frozen tokens: heads with known answers, clips that show the labelled frame, cache, skips."""

import jax
import numpy as np
import pytest

from discovr_jax.evaluation import interface, runner, token_runner
from discovr_jax.evaluation.evaluators import heads, segmentation
from discovr_jax.evaluation.features import tokens
from tests import tokens_case

FIT = {"steps": 90, "every": 30, "batch": 16, "learning_rate": 3e-2, "weight_decays": (1e-2,)}
LINEAR = FIT | {"steps": 180, "every": 60, "learning_rate": 6e-2}
OPTIONS = {"heads_used": ("linear", "decoder"), "linear": LINEAR, "decoder": FIT, "max_gib": 1.0}


def eyes(seeds=1):
    blind = [tokens_case.Blind(seed + 1) for seed in range(seeds)]
    return {"discovr": [tokens_case.Seeing()], "random": blind}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(evaluation, context, pictures) of one run."""
    evaluation, context = tokens_case.make_context(tmp_path_factory.mktemp("features"), eyes=eyes())
    return evaluation, context, segmentation.run(evaluation, "segmentation", context, **OPTIONS)


def value(evaluation, encoder, metric):
    return evaluation.results["encoders"][encoder][f"segmentation/{metric}"]["value"]


def test_tokens_that_hold_the_mask_segment_it_and_noise_is_the_mean_mask(done):
    evaluation = done[0]
    for prefix, least in (("", 0.97), ("decoder_", 0.94)):
        for phase in ("", "_ed", "_es"):
            assert value(evaluation, "discovr", f"{prefix}dice{phase}") > least
            assert value(evaluation, "discovr", f"{prefix}iou{phase}") > least / (2 - least)
        assert value(evaluation, "discovr", f"{prefix}hausdorff95_mm") < 2.1  # a pixel is 2 mm
    blind, mean = value(evaluation, "random", "dice"), value(evaluation, "mean_mask", "dice")
    assert blind == pytest.approx(mean, abs=0.08) and mean < 0.85
    pair = evaluation.results["paired"]["discovr-mean_mask"]["segmentation/dice"]
    assert pair["value"] == pytest.approx(value(evaluation, "discovr", "dice") - mean) and pair["low"] > 0.05
    assert evaluation.results["videos"]["segmentation"] == tokens_case.COUNTS
    entry = evaluation.results["readouts"]["segmentation"]["encoders"]
    (details,) = entry["random"]["details"]
    assert set(details) == {"decay", "steps", "val_dice", "frames_without_LV_cavity"}


def test_the_mean_mask_is_that_of_the_phase(done):
    """By hand from the training records, per phase; its Dice is the metric."""
    evaluation, context, _ = done
    train, test = (context.sources[split] for split in ("train", "test"))
    found = []
    for place, phase in ((0, "ed"), (2, "es")):
        mean = np.mean([record["masks"][place] for record in train], 0) > 0.5
        truth = [record["masks"][place] == 1 for record in test]
        each = [2 * (mean & mask).sum() / (mean.sum() + mask.sum()) for mask in truth]
        assert value(evaluation, "mean_mask", f"dice_{phase}") == pytest.approx(np.mean(each))
        found += each
    assert value(evaluation, "mean_mask", "dice") == pytest.approx(np.mean(found))


def test_only_experts_masks_count_and_their_frames_are_shown(done):
    evaluation, context, pictures = done
    frames = tokens.labelled(context, "test")
    assert frames.frame.tolist() == [3, 8] * 12 and frames.phase.tolist() == [0, 1] * 12
    (seen, *_) = tokens.of_frames(context, "test", frames)
    for row, (record, frame) in enumerate(zip(frames.record, frames.frame, strict=True)):
        shown = tokens_case.patches(np.asarray(_frame(context.sources["test"][record], frame)))
        np.testing.assert_array_equal(seen[row], shown)
    assert [(one["title"], one["phase"]) for one in pictures] == [
        (f"test{row}", phase) for row in (0, 5, 11) for phase in ("ED", "ES")
    ]
    for one in pictures:
        assert set(one["predictions"]) == {
            ("linear", "discovr"), ("linear", "random"), ("decoder", "discovr"), ("decoder", "random"),
            ("none", "mean_mask"),
        }  # fmt: skip
        assert ((one["frame"] == 100) == (one["truth"] == 1))[1:].all()
        assert one["predictions"]["linear", "discovr"].shape == one["truth"].shape == (16, 16)


def _frame(record, frame):
    from discovr_jax.data import records

    return records.decode_frames(record["frames"], 16, 16, [int(frame)])[0]


def test_the_second_time_nothing_is_encoded_or_trained(done, monkeypatch):
    evaluation, context, _ = done
    again, fresh = tokens_case.make_context(context.directory, eyes=eyes())
    monkeypatch.setattr(heads, "fit", None)
    segmentation.run(again, "segmentation", fresh, **OPTIONS)
    assert again.results["encoders"] == evaluation.results["encoders"]
    monkeypatch.undo()
    two_seeds = eyes(seeds=2)
    again, fresh = tokens_case.make_context(context.directory, eyes=two_seeds)
    other = {"heads_used": ("linear",), "linear": FIT | {"steps": 30}}
    segmentation.run(again, "segmentation", fresh, **(OPTIONS | other))
    assert two_seeds["discovr"][0].calls == 0  # other options: trained anew from the tokens on disk
    assert len(again.results["readouts"]["segmentation"]["encoders"]["random"]["details"]) == 2
    assert value(again, "discovr", "dice") != value(evaluation, "discovr", "dice")


def test_masks_that_were_drawn_again_are_read_again(tmp_path):
    _, context = tokens_case.make_context(tmp_path / "cache")
    source, file = context.sources["test"], tmp_path / "echo-test.array_record-00000-of-00001"
    source.path = tmp_path
    file.write_bytes(b"one")
    before = tokens.labelled(context, "test")
    source[0]["masks"][0] = 1 - source[0]["masks"][0]
    np.testing.assert_array_equal(tokens.labelled(context, "test").masks, before.masks)  # the files are the same
    file.write_bytes(b"other")
    assert (tokens.labelled(context, "test").masks[0] != before.masks[0]).all()


@pytest.mark.parametrize("batch", [1, 5, 8])
def test_tokens_do_not_depend_on_the_batch(tmp_path, batch):
    config = tokens_case.make_config()
    config.eval.batch_size = batch
    _, context = tokens_case.make_context(tmp_path, config)
    frames = tokens.labelled(context, "val")
    eyes = tokens_case.Seeing()
    found = tokens.of_frames(context, "val", frames)[0]
    assert found.shape == (20, 16, 16) and found.dtype == np.float16
    pixels = np.stack([_frame(context.sources["val"][r], f) for r, f in zip(frames.record, frames.frame, strict=True)])
    np.testing.assert_array_equal(found, eyes.of_frame(pixels[:, None], None, np.zeros(20, int)))


def test_reasons_to_skip(tmp_path):
    sources = {split: tokens_case.Records(split, masks=split != "val") for split in ("train", "val", "test")}
    evaluation, context = tokens_case.make_context(tmp_path, sources=sources)
    with pytest.raises(interface.Skip, match="no masks: none of the 10 videos of split val"):
        segmentation.run(evaluation, "segmentation", context, **OPTIONS)
    evaluation, context = tokens_case.make_context(tmp_path / "b")
    with pytest.raises(interface.Skip, match=r"of 3 encoders take 0.0 GiB .* eval.evaluators.seg.max_gib allows 1e-06"):
        segmentation.run(evaluation, "seg", context, **(OPTIONS | {"max_gib": 1e-6}))
    bad = tokens_case.Seeing()
    bad.of_frame = lambda frames, *_: np.full((len(frames), 16, 16), np.nan)
    evaluation, context = tokens_case.make_context(tmp_path / "c", eyes={"discovr": [bad]})
    chosen = {"segmentation": OPTIONS | {"type": "segmentation"}, "knn": {"type": "knn"}}
    assert token_runner.run_token_evaluators(evaluation, chosen, context) == {} and "segmentation" in runner.TOKEN_TYPES
    (skip,) = evaluation.results["skipped"]
    assert skip["evaluator"] == "segmentation" and "48 of 48 clips of discovr (seed 0)" in skip["reason"]


def test_fold_puts_each_cell_in_its_place():
    picture = np.arange(2 * 8 * 6 * 3).reshape(2, 8, 6, 3)
    cells = picture.reshape(2, 4, 2, 3, 2, 3).swapaxes(2, 3).reshape(2, 4, 3, -1)
    np.testing.assert_array_equal(segmentation.fold(cells, 2, 3), picture)


def test_around_is_a_convolution():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 5, 6, 3)).astype(np.float32), rng.normal(size=(3, 3, 3, 4)).astype(np.float32)
    expected = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(segmentation.around(x) @ kernel.reshape(27, 4), expected, rtol=1e-4, atol=1e-5)


def test_shares_and_loss_of_half_covered_pixels():
    masks = np.zeros((1, 4, 4), np.uint8)
    masks[0, :2, :1], masks[0, 2:, 2:] = 1, 3
    covered = segmentation.shares(masks, [1, 3], 2)
    assert covered[0, ..., 0].tolist() == [[128, 0], [0, 0]] and covered[0, ..., 1].tolist() == [[0, 0], [0, 255]]
    loss = segmentation.cross_entropy(np.zeros((1, 2, 2, 3), np.float32), covered)
    assert float(loss) == pytest.approx(np.log(3))


def test_classes_phases_and_units():
    truth = tokens.Labelled(
        np.arange(3), np.zeros(3, int), np.array([0, 1, 2]), np.zeros((3, 4, 4), np.uint8), np.full((3, 2), np.nan)
    )
    truth.masks[:, :2], truth.masks[:2, 3] = 1, 2
    found = segmentation.measure(truth, np.where(truth.masks == 1, 1, 0), [1, 2])
    np.testing.assert_array_equal(found["dice"], [1, 1, 1])
    np.testing.assert_array_equal(found["dice_es"], [np.nan, 1, np.nan])
    np.testing.assert_array_equal(found["dice_myocardium"], [0, 0, np.nan])  # missed twice, not there once
    np.testing.assert_array_equal(found["hausdorff95_px_myocardium"], [np.nan] * 3)
    assert not any(name.startswith("hausdorff95_mm") for name in found) and set(found) <= set(segmentation.METRICS)
