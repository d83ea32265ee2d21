"""Our numbers beside the public code's, on a file of its inputs and outputs ("golden").

The layout of such a file is described in tests/golden/README.md. All sizes come from its arrays; the state goes
through the converter that users' checkpoints go through, and the model, losses and optimizer are those of
`config.fidelity = "released"`.
"""

import dataclasses
import functools
import os
import re
import zipfile
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from discovr_jax import experiment, masking, optim, train_step
from discovr_jax.convert import names, state
from discovr_jax.convert.sizes import ConversionError, Hints
from discovr_jax.fidelity import option
from discovr_jax.losses import objective
from discovr_jax.losses.sinkhorn import sinkhorn
from discovr_jax.models.discovr import Discovr, Masks

OUTPUT, GRADIENT = 1e-5, 1e-4  # tolerances, relative
LEARNING_RATE = 1e-3  # of the trajectory; decay and moments are the config's defaults
STORED = 32  # videos are stored as int8, times this
TIE = 1e-4  # two assignments closer than this (relative) are a tie: either label is right
# Losses: name in the file (below "out/released/" and "traj/S/"), name in our metrics.
LOSSES = {
    "video_dino_loss": "loss/vid",
    "image_dino_loss": "loss/img",
    "scd_loss_video_scores": "scd/video_scores",
    "scd_loss_image_scores": "scd/image_scores",
    "total_loss": "loss/total",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison: norm of the difference over norm of the reference (labels: share that differ)."""

    quantity: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # False for NaN

    def as_dict(self) -> dict:
        return dataclasses.asdict(self) | {"passed": self.passed}


class Golden:
    """The file's arrays; remembers which were read, so that none goes unnoticed."""

    def __init__(self, path: str | os.PathLike):
        try:
            with np.load(path) as file:  # no pickles: NumPy refuses them by default
                self._arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise ConversionError(f"{path} is no readable .npz file of plain arrays ({error})") from None
        self._path = path
        self.unread = set(self._arrays)

    def __getitem__(self, name: str) -> np.ndarray:
        self.unread.discard(name)
        try:
            return self._arrays[name]
        except KeyError:
            raise ConversionError(f"{self._path} has no array {name!r}: not a golden file") from None

    def below(self, prefix: str) -> dict[str, np.ndarray]:
        return {n.removeprefix(prefix): self[n] for n in self._arrays if n.startswith(prefix)}


@dataclasses.dataclass(frozen=True)
class Setup:
    """The released run of a golden file: its parts, and the state it starts from."""

    run: experiment.Experiment
    config: object
    start: train_step.TrainState
    computed: Mapping[str, np.ndarray]


def run(path: str | os.PathLike) -> list[Row]:
    """All comparisons that the file has numbers for.

    Raises:
      ConversionError: no golden file, or a state that does not convert.
    """
    golden = Golden(path)
    with jax.default_matmul_precision("highest"):
        setup = set_up(golden)
        rows = [*_step(golden, setup), *_sinkhorn(golden), *_trajectory(golden, setup)]
    # An array that nothing compares is a failure: it would pass whatever it said.
    return rows + [Row(f"{name}: not understood", np.nan, 0.0) for name in sorted(golden.unread)]


def table(rows: list[Row]) -> str:
    """The rows as text, and a summary."""
    width = max(len(row.quantity) for row in rows)
    lines = [f"{'quantity':<{width}}  {'error':>9}  {'tolerance':>9}"]
    for row in rows:
        verdict = "pass" if row.passed else "FAIL"
        lines.append(f"{row.quantity:<{width}}  {row.error:9.2e}  {row.tolerance:9.0e}  {verdict}")
    failed = sum(not row.passed for row in rows)
    return "\n".join([*lines, f"{len(rows) - failed} of {len(rows)} pass, {failed} fail"])


def set_up(golden: Golden) -> Setup:
    """Model, losses and optimizer of the released code, with the file's state."""
    batch, _, frames, size, _ = golden["video_int8"].shape
    hints = Hints(
        heads=int(golden["meta/num_heads"]),
        decoder_heads=int(golden["meta/decoder_num_heads"]),
        num_frames=frames,
        image_size=size,
    )
    converted = state.from_torch(golden.below("state/"), hints)
    c = converted.config
    c.fidelity, c.model.dtype = "released", "float32"
    # An epoch of one step, so that the step number is the file's epoch.
    c.batch_size, c.optim.lr, c.optim.base_lr = batch, LEARNING_RATE, None
    run = experiment.make_experiment(c, num_train=batch)
    tree = traverse_util.unflatten_dict(converted.arrays, sep="/")
    tree = jax.tree.map(jnp.asarray, tree)
    positions = jnp.zeros((run.model.grid.places, run.model.width))
    start = train_step.TrainState(
        step=jnp.int32(0),
        skipped=jnp.int32(0),
        params=tree["params"],
        teacher=tree["teacher"],
        opt_state=run.tx.init(tree["params"]),
        memory=objective.Memory(tree["memory"]["centers"], positions),
    )
    return Setup(run, c, start, converted.computed)


def _batch(golden: Golden, prefix: str) -> tuple[dict[str, jax.Array], Masks]:
    """Normalised three-channel clips and the masks of one step."""
    video = golden[f"{prefix}video_int8"].astype(np.float32).transpose(0, 2, 3, 4, 1) / STORED
    batch = {"frames": jnp.asarray(video), "num_valid": jnp.full(video.shape[:1], video.shape[1], jnp.int32)}

    def visible(masked):
        return jnp.asarray(np.stack([np.flatnonzero(~row) for row in masked.astype(bool)]), jnp.int32)

    masks = Masks(
        visible(golden[f"{prefix}global_mask"]),
        tuple(visible(view) for view in golden[f"{prefix}local_masks"]),
        tuple(visible(view) for view in golden[f"{prefix}image_masks"]),
    )
    return batch, masks


def _step(golden: Golden, setup: Setup) -> Iterator[Row]:
    """Outputs, scores, losses, centres, EMA and gradients of one step."""
    run, start = setup.run, setup.start
    batch, masks = _batch(golden, "")
    epoch = jnp.int32(golden["epoch"])
    params, teacher = jax.jit(functools.partial(_at_forward, setup))(start.params, start.teacher, epoch)
    loss = jax.value_and_grad(functools.partial(train_step.losses, run.model, run.options), has_aux=True)

    @jax.jit  # as one program: eager operations compile one by one, which takes longer than all of this
    def everything(params, teacher, memory):
        temperature = run.schedules.temperature(epoch)
        (_, (after, metrics)), grads = loss(params, teacher, memory, batch, masks, temperature)
        scores = _scores(run, params, teacher, memory, batch, masks)
        return after, metrics, grads, _outputs(run.model, params, teacher, batch, masks), scores

    memory, metrics, grads, outputs, scores = everything(params, teacher, start.memory)
    for name in ("video", "image"):
        reference = golden[f"out/released/assign_{name}"]
        assign = sinkhorn(scores[name], run.options.scd_epsilon, run.options.scd_iterations)
        outputs[f"released/scores_{name}"] = scores[name].reshape(reference.shape)
        outputs[f"released/assign_{name}"] = assign.reshape(reference.shape)
        yield Row(f"out/released/assign_{name}: labels", label_error(assign, reference), 0.0)
    outputs |= {f"released/{name}": metrics[ours] for name, ours in LOSSES.items()}
    outputs["video_center_after"] = memory.centers["vid"][None]
    outputs["image_center_after"] = memory.centers["img"][None]
    outputs["video_teacher_head_last_v_after_ema"] = teacher["video_head"]["last"].T
    for name, value in outputs.items():
        yield compare(f"out/{name}", value, golden[f"out/{name}"], OUTPUT)

    ours = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        name, tensor = names.to_torch(f"params/{optim.path_name(path)}", np.asarray(leaf))
        ours[name] = tensor
    norms = golden.below("grad_norm/")
    for name, reference in norms.items():
        yield compare(f"grad_norm/{name}", np.linalg.norm(ours[name]), reference, GRADIENT)
    for name, reference in golden.below("grad/").items():
        yield compare(f"grad/{name}", ours[name], reference, GRADIENT)
    for name in sorted(ours.keys() - norms.keys()):
        yield Row(f"grad_norm/{name}: none", float(np.linalg.norm(ours[name])), 0.0)


def _at_forward(setup: Setup, params: dict, teacher: dict, epoch: jax.Array) -> tuple[dict, dict]:
    """Parameters as the forward pass of a step sees them: unit prototypes, and the EMA if it goes first."""
    params = train_step.unit_prototypes(params)
    if option(setup.config, "ema.order") == "before":
        teacher = train_step.ema(teacher, params, setup.run.schedules.ema_momentum(epoch))
    return params, teacher


def _outputs(model: Discovr, params: dict, teacher: dict, batch: dict, masks: Masks) -> dict[str, jax.Array]:
    """Tokens by their names in the file."""
    frames, num_valid = batch["frames"], batch["num_valid"]

    def apply(tree, method):
        return model.apply({"params": tree}, method=method)

    def views(module):
        clip = module.video_patches(frames, num_valid)
        single = module.frame_patches(frames, num_valid)
        seen = module.video_encoder(clip, masks.global_view)
        decoded = module.decoder(seen[:, 1:], masks.global_view)
        order = masking.visible_then_hidden(masks.global_view, module.grid.tokens)
        return {
            "video_student_global_tokens": seen,
            "video_student_local_cls": jnp.stack(
                [module.video_encoder(clip, view)[:, 0] for view in masks.local_views]
            ),
            "image_student_cls": jnp.stack(
                [module.image_encoder(single, view)[:, 0] for view in masks.image_views]
            ),
            "decoder_tokens_visible_then_masked": jnp.take_along_axis(decoded, order[:, :, None], axis=1),
        }

    return {
        "video_teacher_tokens": apply(teacher, lambda m: m.encode_video(frames, num_valid)),
        "image_teacher_tokens": apply(teacher, lambda m: m.encode_frames(frames, num_valid)),
        **apply(params, views),
    }


def _scores(run, params, teacher, memory, batch, masks) -> dict[str, jax.Array]:
    """Scores of both branches against the prototypes, [B * tokens, prototypes]."""
    frames, num_valid = batch["frames"], batch["num_valid"]
    seen = run.model.apply({"params": teacher}, frames, num_valid, method="teacher")
    student = run.model.apply({"params": params}, frames, num_valid, masks, method="student")
    order = masking.visible_then_hidden(masks.global_view, run.model.grid.tokens)
    hidden = masking.hidden(masks.global_view, run.model.grid.tokens)
    inputs = objective.Batch(num_valid, run.model.grid.frames, hidden, order, None, None)
    video, image = objective.scd_scores(run.options, student, seen, memory, inputs)
    return {"video": video, "image": image}


def _sinkhorn(golden: Golden) -> Iterator[Row]:
    """Sinkhorn-Knopp alone: eps 0.05, 10 iterations."""
    cases = golden.below("sinkhorn/")
    for case in sorted({name.split("/")[0] for name in cases}):
        assign = jax.jit(sinkhorn)(jnp.asarray(cases[f"{case}/scores"]), 0.05, 10)
        yield compare(f"sinkhorn/{case}", assign, cases[f"{case}/assign"], OUTPUT)
        yield Row(f"sinkhorn/{case}: labels", label_error(assign, cases[f"{case}/assign"]), 0.0)


def _trajectory(golden: Golden, setup: Setup) -> Iterator[Row]:
    """AdamW steps from the same state: losses of each, and the norm of every parameter after the last."""
    run, current = setup.run, setup.start
    step = experiment.make_train_step(run, setup.config)
    apply = jax.jit(step.apply)
    found = {int(m[1]) for name in golden.unread if (m := re.match(r"traj/(\d+)/", name))}
    for number in sorted(found):
        prefix = f"traj/{number}/"
        current, metrics = apply(current, *_batch(golden, prefix))
        for name, ours in LOSSES.items():
            yield compare(prefix + name, metrics[ours], golden[prefix + name], GRADIENT)
    ours = {}
    parts = {"params": current.params, "teacher": current.teacher}
    for path, leaf in jax.tree_util.tree_leaves_with_path(parts):
        name, tensor = names.to_torch(optim.path_name(path), np.asarray(leaf))
        ours[name] = tensor
    for name, reference in golden.below("traj/final_norm/").items():
        if names.is_computed(name):
            tensor = setup.computed.get(name, state.compute(name, setup.config))
        else:
            tensor = ours[name]
        yield compare(f"traj/final_norm/{name}", np.linalg.norm(tensor), reference, GRADIENT)


def compare(quantity: str, ours, reference, tolerance: float) -> Row:
    """Norm of the difference over norm of the reference (of the difference alone where that is zero)."""
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    if ours.shape != reference.shape:
        return Row(f"{quantity}: shape {ours.shape}, reference {reference.shape}", np.nan, tolerance)
    scale = np.linalg.norm(reference) or 1.0
    return Row(quantity, float(np.linalg.norm(ours - reference) / scale), tolerance)


def label_error(ours, reference) -> float:
    """Share of rows whose largest assignment is another one, ties (of the reference) apart."""
    reference = np.asarray(reference, np.float64).reshape(-1, reference.shape[-1])
    top = np.sort(reference, axis=1)
    tie = top[:, -1] - top[:, -2] <= TIE * top[:, -1]
    labels = np.asarray(ours).reshape(reference.shape).argmax(1)
    return float(((labels != reference.argmax(1)) & ~tie).mean())
