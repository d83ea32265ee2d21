"""Parity of fidelity "reference" with the public code: every number of tests/golden/*.npz."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from discovr_jax import trees
from discovr_jax.configs import base
from discovr_jax.convert import names
from discovr_jax.losses import interface, scd
from discovr_jax.losses.sinkhorn import sinkhorn
from discovr_jax.method import experiment as experiment_lib
from discovr_jax.method import masking
from discovr_jax.method import step as train_step
from discovr_jax.models.discovr import Masks

FILES = sorted((pathlib.Path(__file__).parent / "golden").glob("*.npz"))
OUTPUT, GRADIENT = 1e-5, 1e-4  # relative tolerances


def assert_close(actual, expected, tolerance, what):
    """Relative difference of norms."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, what
    difference = np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-12)
    assert difference < tolerance, f"{what}: relative difference {difference:.2e}"


class Golden:
    """A golden file as a config, a state and batches."""

    def __init__(self, path):
        self.arrays = np.load(path)
        z = self.arrays
        self.num_clips, _, time, size, _ = z["video_int8"].shape
        width, _, tubelet, patch, _ = z["state/encoder.patch_embed.proj.weight"].shape
        c = base.get_config()
        c.fidelity = "reference"
        c.batch_size, c.duration = self.num_clips, "4 steps"
        c.data.num_frames, c.data.image_size = time, size
        c.model.variant, c.model.width, c.model.heads = "custom", width, int(z["meta/num_heads"])
        c.model.depth, c.model.decoder_depth = self._blocks("encoder"), self._blocks("decoder")
        c.model.decoder_width = z["state/mask_token"].shape[-1]
        c.model.decoder_heads = int(z["meta/decoder_num_heads"])
        c.model.patch, c.model.tubelet, c.model.dtype = patch, tubelet, "float32"
        c.model.num_prototypes = z["state/prototypes"].shape[0]
        c.head.hidden = z["state/video_dino_head.mlp.0.weight"].shape[0]
        c.head.bottleneck = z["state/video_dino_head.mlp.4.weight"].shape[0]
        c.head.outputs = z["state/video_center"].shape[1]
        c.mask.video_views, c.mask.image_views = len(z["local_masks"]), len(z["image_masks"])
        c.optim.lr = 1e-3
        # One step per epoch: step S of the trajectory is epoch S.
        self.experiment = experiment_lib.make_experiment(c, num_train=self.num_clips)
        self.step = experiment_lib.make_train_step(self.experiment, c)
        self.model = self.experiment.model
        self.state = self._state()

    def _blocks(self, module):
        pattern = rf"state/{module}\.blocks\.\d+\.norm1\.bias"
        return sum(re.fullmatch(pattern, key) is not None for key in self.arrays.files)

    def _state(self):
        tree = {}
        for key in self.arrays.files:
            name = key.removeprefix("state/")
            if name == key or names.is_computed(name):
                continue
            path, array = names.to_ours(name, self.arrays[key])
            *parents, last = path.split("/")
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = array
        position_mean = np.zeros((self.model.grid.num_positions, self.model.width), np.float32)
        zero = np.zeros((), np.int32)
        empty = jax.eval_shape(self.experiment.tx.init, tree["params"])
        opt_state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), empty)
        memory = interface.LossState(tree["memory"]["centers"], position_mean)
        return train_step.TrainState(zero, zero, tree["params"], tree["teacher"], opt_state, memory)

    def inputs(self, prefix=""):
        """(batch, masks); frames are three normalised channels, which the model takes as they are."""
        z = self.arrays
        frames = z[f"{prefix}video_int8"].transpose(0, 2, 3, 4, 1) / np.float32(32)
        batch = {"frames": frames, "num_valid": np.full(self.num_clips, frames.shape[1], np.int32)}

        def visible(masks):
            return np.stack([np.flatnonzero(~row) for row in masks]).astype(np.int32)

        views = (tuple(visible(view) for view in z[f"{prefix}{kind}_masks"]) for kind in ("local", "image"))
        return batch, Masks(visible(z[f"{prefix}global_mask"]), *views)


@pytest.fixture(scope="module", params=FILES, ids=[path.stem for path in FILES])
def golden(request):
    return Golden(request.param)


@pytest.fixture(scope="module")
def forward(golden):
    """Everything that one step computes, as one dict of arrays."""
    model, options = golden.model, golden.experiment.options
    batch, masks = golden.inputs()
    temperature = golden.experiment.schedules.temperature(int(golden.arrays["epoch"]))

    @jax.jit
    def compute(state, batch, masks):
        params = train_step.unit_prototypes(state.params)
        teacher = train_step.ema(state.teacher, params, 0.99)
        gradient = jax.value_and_grad(train_step.losses, argnums=2, has_aux=True)
        (_, (memory, metrics)), grads = gradient(
            model, options, params, teacher, state.memory, batch, masks, temperature
        )
        frames, num_valid = batch["frames"], batch["num_valid"]
        seen = model.apply({"params": teacher}, frames, num_valid, method="teacher")
        student = model.apply({"params": params}, frames, num_valid, masks, method="student")
        order = masking.visible_then_masked(masks.decoder_view, model.grid.tokens)

        def encode(module, mask_list, patches):
            return module(patches, jnp.stack(mask_list, 1).reshape(-1, mask_list[0].shape[1]))

        def students(module):
            patches = module.video_patches(frames, num_valid)
            frame_patches = module.frame_patches(frames, num_valid)
            local = encode(module.video_encoder, masks.local_views, patches)[:, 0]
            image = encode(module.image_encoder, masks.image_views, frame_patches)[:, 0]
            return {
                "video_student_global_tokens": encode(module.video_encoder, (masks.decoder_view,), patches),
                "video_student_local_cls": local.reshape(frames.shape[0], -1, model.width).swapaxes(0, 1),
                "image_student_cls": image.reshape(frame_patches.shape[0], -1, model.width).swapaxes(0, 1),
            }

        need = interface.Batch(num_valid, model.grid.frames, None, order, None, None)
        scores = scd.scd_scores(options, student, seen, state.memory, need)
        found = model.apply({"params": params}, method=students)
        for name, score in zip(("video", "image"), scores, strict=True):
            shape = (frames.shape[0], -1, score.shape[-1])
            found[f"released/scores_{name}"] = score.reshape(shape)
            found[f"released/assign_{name}"] = sinkhorn(score, 0.05, 10).reshape(shape)
        found |= {
            "video_teacher_tokens": model.apply(
                {"params": teacher}, frames, num_valid, method="encode_video"
            ),
            "image_teacher_tokens": model.apply(
                {"params": teacher}, frames, num_valid, method="encode_frames"
            ),
            "decoder_tokens_visible_then_masked": jnp.take_along_axis(
                student.decoded, order[:, :, None], axis=1
            ),
            "video_center_after": memory.centers["vid"][None],
            "image_center_after": memory.centers["img"][None],
            "video_teacher_head_last_v_after_ema": teacher["video_head"]["last"].T,
            "released/video_dino_loss": metrics["loss/vid"],
            "released/image_dino_loss": metrics["loss/img"],
            "released/scd_loss_video_scores": metrics["scd/video_scores"],
            "released/scd_loss_image_scores": metrics["scd/image_scores"],
            "released/total_loss": metrics["loss/total"],
        }
        return found, grads

    found, grads = compute(golden.state, batch, masks)
    return found, {trees.path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(grads)}


def test_there_are_golden_files():
    assert FILES


def test_every_output_and_loss(golden, forward):
    found, _ = forward
    expected = {key[4:]: golden.arrays[key] for key in golden.arrays.files if key.startswith("out/")}
    assert expected.keys() == found.keys()
    for key, array in expected.items():
        assert_close(found[key], array, OUTPUT, key)


def test_every_gradient(golden, forward):
    _, grads = forward
    z, met = golden.arrays, set()
    for key in z.files:
        kind, _, name = key.partition("/")
        if kind not in ("grad", "grad_norm"):
            continue
        path, transform = names.our_name(name)
        gradient = grads[path.removeprefix("params/")]
        if kind == "grad":
            assert_close(gradient, names.TRANSFORMS[transform][0](z[key]), GRADIENT, key)
        else:
            met.add(path.removeprefix("params/"))
            assert_close(jnp.linalg.norm(gradient), z[key], GRADIENT, key)
    for path in grads.keys() - met:
        assert not np.any(grads[path]), f"{path} has a gradient here and none in the public code"


def test_four_steps(golden):
    z, state = golden.arrays, golden.state
    step = jax.jit(golden.step.apply)
    terms = {
        "video_dino_loss": "loss/vid",
        "image_dino_loss": "loss/img",
        "scd_loss_video_scores": "scd/video_scores",
        "scd_loss_image_scores": "scd/image_scores",
        "total_loss": "loss/total",
    }
    for number in range(4):
        state, metrics = step(state, *golden.inputs(f"traj/{number}/"))
        for theirs, ours in terms.items():
            assert_close(metrics[ours], z[f"traj/{number}/{theirs}"], GRADIENT, f"step {number}, {theirs}")
    ends = {"params": state.params, "teacher": state.teacher}
    final = {trees.path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(ends)}
    met = set()
    for key in z.files:
        name = key.removeprefix("traj/final_norm/")
        if name == key or names.is_computed(name):
            continue
        path, _ = names.our_name(name)
        assert_close(jnp.linalg.norm(final[path]), z[key], GRADIENT, key)
        met.add(path)
    assert met == final.keys()


def test_sinkhorn(golden):
    z = golden.arrays
    problems = {key.split("/")[1] for key in z.files if key.startswith("sinkhorn/")}
    assert problems
    for problem in problems:
        scores = jnp.asarray(z[f"sinkhorn/{problem}/scores"])
        found = jax.jit(sinkhorn, static_argnums=(1, 2))(scores, 0.05, 10)
        assert_close(found, z[f"sinkhorn/{problem}/assign"], OUTPUT, f"sinkhorn {problem}")
