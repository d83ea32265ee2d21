"""Our numbers beside the public code's, on a file of its inputs and outputs ("golden").

The layout of such a file is described in tests/golden/README.md. All sizes come from its arrays; the state goes
through the converter that users' checkpoints go through, and the model, losses and optimizer are those of
`config.fidelity = "reference"`.
"""

import dataclasses
import functools
import os
import re
import zipfile
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from discovr_jax import trees
from discovr_jax.convert import names, state
from discovr_jax.convert.sizes import ConversionError, Hints
from discovr_jax.losses import interface, scd
from discovr_jax.losses.sinkhorn import sinkhorn
from discovr_jax.method import experiment, masking
from discovr_jax.method import step as train_step
from discovr_jax.method.fidelity import option
from discovr_jax.models.discovr import Discovr, Masks

OUTPUT, GRADIENT = 1e-5, 1e-4  # tolerances, relative
LEARNING_RATE = 1e-3  # of the trajectory; weight decay and betas are the config's defaults
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

    def __init__(self, path: str | os.PathLike, arrays: Mapping[str, np.ndarray]):
        self._path, self._arrays, self.unread = path, arrays, set(arrays)

    def __getitem__(self, name: str) -> np.ndarray:
        self.unread.discard(name)
        try:
            return self._arrays[name]
        except KeyError:
            raise ConversionError(f"{self._path} has no array {name!r}: not a golden file") from None

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def below(self, prefix: str) -> dict[str, np.ndarray]:
        return {n.removeprefix(prefix): self[n] for n in self._arrays if n.startswith(prefix)}


def read_golden(path: str | os.PathLike) -> Golden:
    """Open a golden file.

    Raises:
      ConversionError: no .npz file, or one that holds more than plain arrays.
    """
    try:
        with np.load(path) as file:  # NumPy refuses pickles by default
            return Golden(path, {name: file[name] for name in file.files})
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise ConversionError(f"{path} is no readable .npz file of plain arrays ({error})") from None


@dataclasses.dataclass(frozen=True)
class Setup:
    """The reference implementation's run in a golden file: its parts, and the state it starts from."""

    run: experiment.Experiment
    config: object
    start: train_step.TrainState
    computed: Mapping[str, np.ndarray]


def run(path: str | os.PathLike) -> list[Row]:
    """All comparisons that the file has numbers for.

    Raises:
      ConversionError: no golden file, or a state that does not convert.
    """
    golden = read_golden(path)
    return compare_outputs(golden_outputs(golden), golden)


def golden_outputs(golden: Golden) -> dict[str, np.ndarray]:
    """Our value of every number of the file, under its name there, from the file's state and inputs."""
    with jax.default_matmul_precision("highest"):
        setup = set_up(golden)
        return _step(golden, setup) | _sinkhorn(golden) | _trajectory(golden, setup)


def compare_outputs(ours: Mapping[str, np.ndarray], golden: Golden) -> list[Row]:
    """One row a number, and one for the labels of every assignment. What is not compared fails."""
    rows = []
    for name, value in ours.items():
        tolerance = GRADIENT if name.startswith(("grad", "traj")) else OUTPUT
        if name not in golden:
            # The only numbers that a file leaves out: norms of gradients that are none.
            rows.append(Row(f"{name} (none)", float(value), 0.0))
            continue
        reference = golden[name]
        rows.append(Row(name, relative_error(value, reference), tolerance))
        if "assign" in name:
            rows.append(Row(f"{name} (labels)", label_error(value, reference), 0.0))
    return rows + [Row(f"{name} (not understood)", np.nan, 0.0) for name in sorted(golden.unread)]


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
    """Model, losses and optimizer of the reference implementation, with the file's state."""
    batch, _, frames, size, _ = golden["video_int8"].shape
    hints = Hints(
        heads=int(golden["meta/num_heads"]),
        decoder_heads=int(golden["meta/decoder_num_heads"]),
        num_frames=frames,
        image_size=size,
    )
    converted = state.from_torch(golden.below("state/"), hints)
    c = converted.config
    c.fidelity, c.model.dtype = "reference", "float32"
    # An epoch of one step, so that the step number is the file's epoch.
    c.batch_size, c.optim.lr, c.optim.base_lr = batch, LEARNING_RATE, None
    run = experiment.make_experiment(c, num_train=batch)
    tree = traverse_util.unflatten_dict(converted.arrays, sep="/")
    tree = jax.tree.map(jnp.asarray, tree)
    positions = jnp.zeros((run.model.grid.num_positions, run.model.width))
    start = train_step.TrainState(
        step=jnp.int32(0),
        skipped=jnp.int32(0),
        params=tree["params"],
        teacher=tree["teacher"],
        opt_state=run.tx.init(tree["params"]),
        memory=interface.LossState(tree["memory"]["centers"], positions),
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


def _step(golden: Golden, setup: Setup) -> dict[str, np.ndarray]:
    """Outputs, scores, losses, centres, EMA and gradients of one step."""
    run = setup.run
    loss = jax.value_and_grad(functools.partial(train_step.losses, run.model, run.options), has_aux=True)

    @jax.jit  # as one program: eager operations compile one by one, which takes longer than all of this
    def everything(start, batch, masks, epoch):
        params, teacher = _at_forward(setup, start.params, start.teacher, epoch)
        temperature = run.schedules.temperature(epoch)
        (_, (memory, metrics)), grads = loss(params, teacher, start.memory, batch, masks, temperature)
        scores = _scores(run, params, teacher, start.memory, batch, masks)
        epsilon, iterations = run.options.scd_epsilon, run.options.scd_iterations
        values = {
            **_outputs(run.model, params, teacher, batch, masks),
            **{f"released/scores_{name}": x for name, x in scores.items()},
            **{f"released/assign_{name}": sinkhorn(x, epsilon, iterations) for name, x in scores.items()},
            **{f"released/{name}": metrics[metric] for name, metric in LOSSES.items()},
            "video_center_after": memory.centers["vid"][None],
            "image_center_after": memory.centers["img"][None],
            "video_teacher_head_last_v_after_ema": teacher["video_head"]["last"].T,
        }
        return values, grads

    values, grads = everything(setup.start, *_batch(golden, ""), jnp.int32(golden["epoch"]))
    ours = {}
    for name, value in values.items():
        flat_scores = name.startswith(("released/scores", "released/assign"))
        ours[f"out/{name}"] = value.reshape(golden[f"out/{name}"].shape) if flat_scores else value
    for name, gradient in _torch_tensors({"params": grads}).items():
        ours[f"grad_norm/{name}"] = np.linalg.norm(gradient)
        if f"grad/{name}" in golden:
            ours[f"grad/{name}"] = gradient
    return ours


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
        encoded = module.video_encoder(clip, masks.decoder_view)
        decoded = module.decoder(encoded[:, 1:], masks.decoder_view)
        order = masking.visible_then_masked(masks.decoder_view, module.grid.tokens)
        return {
            "video_student_global_tokens": encoded,
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
    teacher_outputs = run.model.apply({"params": teacher}, frames, num_valid, method="teacher")
    student = run.model.apply({"params": params}, frames, num_valid, masks, method="student")
    order = masking.visible_then_masked(masks.decoder_view, run.model.grid.tokens)
    masked = masking.masked(masks.decoder_view, run.model.grid.tokens)
    inputs = interface.Batch(num_valid, run.model.grid.frames, masked, order, None, None)
    video, image = scd.scd_scores(run.options, student, teacher_outputs, memory, inputs)
    return {"video": video, "image": image}


def _sinkhorn(golden: Golden) -> dict[str, np.ndarray]:
    """Sinkhorn-Knopp alone: eps 0.05, 10 iterations."""
    solve = jax.jit(functools.partial(sinkhorn, epsilon=0.05, iterations=10))
    cases = golden.below("sinkhorn/")
    return {
        f"sinkhorn/{name.replace('scores', 'assign')}": solve(jnp.asarray(scores))
        for name, scores in cases.items()
        if name.endswith("/scores")
    }


def _trajectory(golden: Golden, setup: Setup) -> dict[str, np.ndarray]:
    """AdamW steps from the same state: losses of each, and the norm of every parameter after the last."""
    state_after, ours = setup.start, {}
    apply = jax.jit(experiment.make_train_step(setup.run, setup.config).apply)
    steps = {int(match[1]) for name in golden.unread if (match := re.match(r"traj/(\d+)/", name))}
    for number in sorted(steps):
        prefix = f"traj/{number}/"
        state_after, metrics = apply(state_after, *_batch(golden, prefix))
        ours |= {prefix + name: metrics[metric] for name, metric in LOSSES.items()}
    tensors = _torch_tensors({"params": state_after.params, "teacher": state_after.teacher})
    for name in golden.below("traj/final_norm/"):
        if names.is_computed(name):
            tensors[name] = setup.computed.get(name, state.compute(name, setup.config))
        if name in tensors:
            ours[f"traj/final_norm/{name}"] = np.linalg.norm(tensors[name])
    return ours


def _torch_tensors(tree: dict) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return dict(names.to_torch(trees.path_name(path), np.asarray(leaf)) for path, leaf in leaves)


def relative_error(ours, reference) -> float:
    """Norm of the difference over norm of the reference (of the difference alone where that is zero); NaN for
    another shape.
    """
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    if ours.shape != reference.shape:
        return np.nan
    return float(np.linalg.norm(ours - reference) / (np.linalg.norm(reference) or 1.0))


def label_error(ours, reference) -> float:
    """Share of rows whose largest assignment is another one, ties (of the reference) apart."""
    reference = np.asarray(reference, np.float64).reshape(-1, reference.shape[-1])
    top = np.sort(reference, axis=1)
    tie = top[:, -1] - top[:, -2] <= TIE * top[:, -1]
    labels = np.asarray(ours).reshape(reference.shape).argmax(1)
    return float(((labels != reference.argmax(1)) & ~tie).mean())
