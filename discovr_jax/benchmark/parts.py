"""The parts of a training step, each as a function that can be compiled and timed alone.

Parts with a gradient run forward and backward; together they do the work of a step, except what XLA shares.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from discovr_jax.method import step as train_step
from discovr_jax.method.experiment import Experiment
from discovr_jax.models.discovr import GLOBAL_VIEW, LOCAL_VIEWS, Masks, StudentOutputs, TeacherOutputs


def parts(experiment: Experiment) -> dict[str, Callable]:
    """Functions `(state, batch, masks, inputs) -> arrays` by part, `inputs` as of `random_inputs`.

    The names are those of `flops.step_flops`, and "optimizer".
    """
    model, outputs = experiment.model, experiment.model.outputs
    decodes = bool(outputs & {"decoded", "pixels"})
    result: dict[str, Callable] = {}
    if outputs & {"image_logits", "image_tokens", "frame_amplitudes"}:
        result["image teacher"] = lambda state, batch, masks, inputs: model.apply(
            {"params": state.teacher}, *_clips(batch), model.image_teacher_every, method="encode_frames"
        )
    if "video_logits" in outputs:
        result["video teacher"] = lambda state, batch, masks, inputs: model.apply(
            {"params": state.teacher}, *_clips(batch), only_cls=True, method="encode_video"
        )
    if "image_logits" in outputs:
        result["image students"] = lambda state, batch, masks, inputs: _forward_and_backward(
            lambda params: model.apply({"params": params}, *_clips(batch), masks.image_views, method="frame_views"),
            _modules(state.params, "image_encoder"),
        )
    if "frame_embeddings" in outputs:
        result["phase views"] = lambda state, batch, masks, inputs: _forward_and_backward(
            lambda params: model.apply({"params": params}, *_phase_views(experiment, batch), method="whole_frames"),
            _modules(state.params, "image_encoder"),
        )
    if outputs & (LOCAL_VIEWS | GLOBAL_VIEW):
        result["video students"] = lambda state, batch, masks, inputs: _forward_and_backward(
            lambda params: model.apply(
                {"params": params}, *_clips(batch), _video_views(masks, outputs), method="video_views"
            ),
            _modules(state.params, "video_encoder"),
        )
    if decodes:

        def decode(masks, params, encoded):
            method = lambda module: module.decoder(encoded, masks.decoder_view, module.clip_positions)  # noqa: E731
            return model.apply({"params": params}, method=method)

        result["decoder"] = lambda state, batch, masks, inputs: _forward_and_backward(
            partial(decode, masks), _modules(state.params, "decoder"), inputs["encoded"]
        )
    if "prototypes" in outputs:

        def scd(state, batch, masks, inputs, vectors, decoded):
            teacher_outputs = TeacherOutputs(None, None, inputs["image_tokens"], None)
            student = StudentOutputs(None, None, None, None, decoded, None, vectors)
            return _loss(experiment, state, batch, masks, student, teacher_outputs)

        result["scd"] = lambda state, batch, masks, inputs: jax.grad(
            partial(scd, state, batch, masks, inputs), argnums=(0, 1)
        )(state.params["prototypes"]["vectors"], inputs["decoded"])
    if outputs & {*LOCAL_VIEWS, "image_logits", "frame_embeddings"}:
        result["heads"] = partial(_heads, experiment)
    result["optimizer"] = partial(_update, experiment)
    return result


def random_inputs(experiment: Experiment, batch_size: int) -> dict[str, jax.Array]:
    """What the parts take from one another: tokens of the shapes and dtype that they have in the step."""
    model, rng = experiment.model, np.random.default_rng(0)
    grid, width = model.grid, model.width
    masks = jax.eval_shape(
        lambda key: train_step.draw_masks(key, model, experiment.masks, batch_size), jax.random.key(0)
    )
    shapes = {
        "encoded": (*masks.decoder_view.shape, width),
        "decoded": (batch_size, grid.tokens, width),
        "image_tokens": (batch_size, grid.frames // model.image_teacher_every, grid.num_positions, width),
        "video_cls": (batch_size, len(masks.local_views), width),
        "image_cls": (batch_size * grid.frames, len(masks.image_views), width),
    }
    if model.phase_frames:
        shapes["frame_cls"] = batch_size, model.phase_frames, 2, width
    return {name: jnp.asarray(rng.normal(size=shape), model.dtype) for name, shape in shapes.items()}


def _heads(experiment, state, batch, masks, inputs):
    """Both heads, of teachers and students, the projectors, and the losses of the CLS tokens."""
    model, outputs = experiment.model, experiment.model.outputs

    def logits(params, cls):
        def method(module):
            return (
                module.video_head(cls["video_cls"]) if "video_logits" in outputs else None,
                module.projector(cls["video_cls"]) if "embeddings" in outputs else None,
                module.image_head(cls["image_cls"]) if "image_logits" in outputs else None,
                module.frame_projector(cls["frame_cls"]) if "frame_embeddings" in outputs else None,
            )

        return model.apply({"params": params}, method=method)

    def loss(params, cls):
        first = jax.tree.map(lambda x: x[:, 0], cls)
        # No teacher has a projector.
        video, _, image, _ = logits(state.teacher | _modules(params, "projector", "frame_projector"), first)
        teacher_outputs = TeacherOutputs(video, image, None, None)
        student = StudentOutputs(*logits(params, cls), None, None, None)
        return _loss(experiment, state, batch, masks, student, teacher_outputs)

    cls = {name: inputs[name] for name in ("video_cls", "image_cls", "frame_cls") if name in inputs}
    heads = _modules(state.params, "video_head", "image_head", "projector", "frame_projector")
    return jax.grad(loss, argnums=(0, 1))(heads, cls)


def _update(experiment, state, batch, masks, inputs):
    """Optimizer, teachers and the guard against steps that are not finite; the gradient is the parameters."""
    updates, opt_state = experiment.tx.update(state.params, state.opt_state, state.params)
    params = jax.tree.map(lambda p, u: p - 1e-3 * u, state.params, updates)
    teacher = train_step.ema(state.teacher, params, 0.99)
    new = state.replace(params=params, opt_state=opt_state, teacher=teacher)
    return train_step.guarded(state.step >= 0, new, state)


def _loss(experiment, state, batch, masks, student, teacher_outputs):
    temperature = experiment.schedules.temperature(state.step)
    args = (experiment.model, experiment.options, state.memory, batch, masks, temperature)
    return train_step.objective(student, teacher_outputs, *args, jax.random.key(0))[0]


def _forward_and_backward(function, *args):
    """Gradients of half the squared output."""
    out, pull = jax.vjp(function, *args)
    return pull(out)


def _modules(params, *names):
    return {name: params[name] for name in names if name in params}


def _phase_views(experiment, batch):
    """Frames in two views that are the same, and how many are real; drawing them is no part of the encoder."""
    frames = batch["frames"][:, :: experiment.model.grid.frames // experiment.model.phase_frames]
    return jnp.stack([frames, frames], 1), jnp.full(len(frames), frames.shape[1], jnp.int32)


def _clips(batch):
    return batch["frames"], batch["num_valid"]


def _video_views(masks: Masks, outputs):
    views = (masks.decoder_view,) if outputs & GLOBAL_VIEW else ()
    return views + (masks.local_views if outputs & LOCAL_VIEWS else ())
