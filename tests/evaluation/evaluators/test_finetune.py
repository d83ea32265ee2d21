"""Fine-tuning: what moves and how fast, the same on any mesh, off unless asked for."""

import jax
import numpy as np
import pytest

from discovr_jax.evaluation import evaluate, interface
from discovr_jax.evaluation.evaluators import finetune
from discovr_jax.method import experiment as experiment_lib
from discovr_jax.method import step as train_step
from tests import conftest, tokens_case

FIT = {"steps": 24, "every": 12, "batch": 8, "learning_rate": 2e-2, "layer_decay": 0.5, "weight_decay": 0.0}


@pytest.fixture(scope="module")
def experiment():
    config = conftest.tiny_config()
    config.data.image_size, config.data.num_frames = tokens_case.SIZE, tokens_case.FRAMES
    config.model.patch, config.model.depth, config.model.input_normalisation = tokens_case.PATCH, 2, "imagenet"
    return experiment_lib.make_experiment(config, 24)


@pytest.fixture(scope="module")
def teachers(experiment):
    """Untrained, by encoder."""

    def draw(seed):
        state = train_step.init_state(experiment.model, experiment.tx, experiment.masks, jax.random.key(seed))
        return {"video_encoder": state.teacher["video_encoder"]}

    return {name: jax.jit(draw, static_argnums=0)(seed) for seed, name in enumerate(("discovr", "random"))}


def make_context(directory, experiment, teachers, mesh):
    sources = {split: tokens_case.Records(split, bright=True) for split in tokens_case.COUNTS}
    tuner = evaluate.make_tuner(experiment.model, mesh, 2, teachers)
    evaluation, context = tokens_case.make_context(directory, sources=sources, tuner=tuner)
    embed = evaluate.make_embed(experiment.model, mesh, 2)
    clips = np.stack([tokens_case.shown(record) for record in sources["train"]])
    for name, params in teachers.items():
        read = embed(params, clips, np.full(len(clips), 4, np.int32))
        others = {"all": read["cls"], "decoder_std_map": read["std_map"]}  # no readouts of the encoder alone
        evaluation.features[name][0] = {"train": read | others}
    return evaluation, context


@pytest.mark.long  # compiles the fine-tuning for several meshes
def test_learns_the_same_on_any_mesh_and_is_kept(tmp_path, experiment, teachers, make_mesh, monkeypatch, caplog):
    """The brightness of the frames tells the EF."""
    caplog.set_level("INFO", "discovr_jax")
    only = {"discovr": teachers["discovr"]}
    options = {"fields": ("ef",), "blocks": (-1,), "fit": FIT}
    found = []
    for number, shape in enumerate(((1, 1, 1), (2, 2, 2))):
        evaluation, context = make_context(tmp_path / str(number), experiment, only, make_mesh(*shape))
        finetune.run(evaluation, "finetune", context, **options)
        found.append(evaluation)
    assert caplog.text.count("finetune_whole_ef: fine-tuning discovr, 24 steps") == 2
    one, eight = (np.array([row["prediction"] for row in each.predictions]) for each in found)
    np.testing.assert_allclose(eight, one, rtol=0, atol=0.05)  # points of EF
    metrics, target = found[0].results["encoders"]["discovr"], found[0].fields["test"]["ef"]
    assert metrics["finetune/whole_ef_mae"]["value"] == pytest.approx(np.abs(one - target).mean())
    assert metrics["finetune/whole_ef_r2"]["value"] > 0.5
    assert found[0].results["videos"] == {"finetune_whole_ef": tokens_case.COUNTS}
    monkeypatch.setattr(finetune, "_tune", None)
    again, context = make_context(tmp_path / "0", experiment, only, make_mesh(1, 1, 1))
    finetune.run(again, "finetune", context, **options)
    assert again.results["encoders"] == found[0].results["encoders"]


def test_what_is_tuned_and_how_fast(teachers):
    params = teachers["discovr"]
    tuned, kept = finetune.partition(params, 1, 2)
    assert {path.split("/")[2] for path in tuned} == {"block1", "norm"}
    assert {path.split("/")[2] if "transformer" in path else path.split("/")[1] for path in kept} == {
        "block0", "patch_embed", "cls_token",
    }  # fmt: skip
    assert finetune.partition(params, -1, 2)[1] == {} and len(finetune.partition(params, 2, 2)[1]) == 3
    shares = {
        "video_encoder/transformer/norm/scale": 1, "tuned_head/kernel": 1, "video_encoder/cls_token": 0.125,
        "video_encoder/transformer/block1/norm1/scale": 0.5, "video_encoder/transformer/block0/attn/qkv": 0.25,
        "video_encoder/patch_embed/kernel": 0.125,
    }  # fmt: skip
    assert {path: finetune.layer_lr_scale(path, 2, 0.5) for path in shares} == shares
    with pytest.raises(ValueError, match="last 3 blocks: the encoder has 2"):
        finetune.partition(params, 3, 2)


def test_off_unless_asked_for_and_skipped_without_the_field(tmp_path, experiment, teachers, make_mesh):
    evaluation, context = make_context(tmp_path, experiment, teachers, make_mesh(1, 1, 1))
    with pytest.raises(interface.NotSetUp, match="set config.eval.evaluators.finetune.fit.steps=200"):
        finetune.run(evaluation, "finetune", context, fields=("ef",), blocks=(1,), fit=FIT | {"steps": 0})
    context.fields["train"]["ef"][:] = np.nan
    finetune.run(evaluation, "finetune", context, fields=("ef",), blocks=(1,), fit=FIT)
    assert [skip["evaluator"] for skip in evaluation.results["skipped"]] == ["finetune_ef"]
