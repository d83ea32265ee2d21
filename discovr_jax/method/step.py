"""The state of training, its initialisation, and the train step. EMA order lives here and nowhere else."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import optax

from discovr_jax.errors import ConfigError
from discovr_jax.losses import objective as objective_lib
from discovr_jax.losses import pixel, scd
from discovr_jax.method import masking
from discovr_jax.method import schedules as schedules_lib
from discovr_jax.method import views as views_lib
from discovr_jax.models.discovr import Discovr, Masks
from discovr_jax.models.heads import l2_normalise
from discovr_jax.parallel import mesh as mesh_lib


@flax.struct.dataclass
class TrainState:
    """Everything that a step reads and writes. `skipped`: non-finite steps in a row."""

    step: jax.Array
    skipped: jax.Array
    params: dict
    teacher: dict
    opt_state: optax.OptState
    memory: objective_lib.LossState


@flax.struct.dataclass
class MaskOptions:
    """How views are masked; see `masking.visible_positions`."""

    kind: str
    ratio: float
    video_views: int
    image_kind: str
    image_ratio: float
    image_views: int
    region_fraction: float


def draw_masks(key: jax.Array, model: Discovr, options: MaskOptions, batch: int) -> Masks:
    """Masks of one step: the global view (always tube), the local views, and the views of every frame."""
    grid = (model.grid.rows, model.grid.cols)
    keys = jax.random.split(key, 3)

    def video(view_key, views, kind):
        views = masking.visible_positions(view_key, views, batch, grid, kind, options.ratio, options.region_fraction)
        return tuple(masking.tube(view, model.grid.time, model.grid.num_positions) for view in views)

    images = masking.visible_positions(
        keys[2],
        options.image_views,
        batch * model.grid.frames,
        grid,
        options.image_kind,
        options.image_ratio,
        options.region_fraction,
    )
    return Masks(video(keys[0], 1, "tube")[0], video(keys[1], options.video_views, options.kind), images)


def init_state(model: Discovr, tx: optax.GradientTransformation, masks: MaskOptions, key: jax.Array) -> TrainState:
    """A fresh state; call under `jax.eval_shape` or `jit` with shardings (nothing is built on one device)."""
    # One clip of zeros: only shapes count here, and no batch is needed for them.
    size = model.patch * model.grid.rows, model.patch * model.grid.cols
    frames = jnp.zeros((1, model.grid.frames, *size), jnp.uint8)
    num_valid = jnp.full((1,), model.grid.frames, jnp.int32)
    step_masks = draw_masks(key, model, masks, 1)
    student_key, teacher_key = jax.random.split(key)
    params = model.init(student_key, frames, num_valid, step_masks, method="init_student")["params"]
    # The teacher starts as the student. A branch that has no student (SCD without the image loss) keeps its
    # own initial weights.
    fresh = model.init(teacher_key, frames, num_valid, method="teacher").get("params", {})
    names = {*fresh} | ({"video_encoder", "image_encoder"} & {*params})
    teacher = {name: params.get(name, fresh.get(name)) for name in sorted(names)}
    teacher = jax.tree.map(jnp.copy, teacher)
    # Running means start at zero, which the losses take for "not started".
    heads = {"vid": "video_logits", "img": "image_logits"}
    centers = {
        name: jnp.zeros(model.head_outputs, jnp.float32) for name, head in heads.items() if head in model.outputs
    }
    position_mean = None
    if "image_tokens" in model.outputs:
        position_mean = jnp.zeros((model.grid.num_positions, model.width), jnp.float32)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        params=params,
        teacher=teacher,
        opt_state=tx.init(params),
        memory=objective_lib.LossState(centers, position_mean),
    )


def ema(teacher: dict, student: dict, momentum: jax.Array) -> dict:
    """Teacher towards student, float32, for the modules that both have.

    Source: mean teachers, Tarvainen and Valpola, arXiv 1703.01780; for self-distillation DINO, arXiv 2104.14294.
    """

    def average(t, s):
        return momentum * t + (1 - momentum) * s.astype(jnp.float32)

    return {
        name: jax.tree.map(average, tree, student[name]) if name in student else tree for name, tree in teacher.items()
    }


def losses(
    model: Discovr,
    options: objective_lib.LossOptions,
    params: dict,
    teacher: dict,
    memory: objective_lib.LossState,
    batch: dict,
    masks: Masks,
    temperature: jax.Array,
    key: jax.Array | None = None,
):
    """Forward of both students and teachers and the objective.

    Args:
      batch: of `views.add_views`.
      key: of this step, for terms that draw something.

    Returns: (total, (new memory, metrics)), ready for `jax.value_and_grad(..., argnums=2, has_aux=True)`.
    """
    frames, num_valid = batch["frames"], batch["num_valid"]
    teacher_outputs = model.apply({"params": teacher}, frames, num_valid, method="teacher") if teacher else None
    student = model.apply({"params": params}, **batch, masks=masks, method="student")
    return objective(student, teacher_outputs, model, options, memory, batch, masks, temperature, key)


def objective(student, teacher_outputs, model, options, memory, batch, masks, temperature, key=None):
    """The objective of a model's outputs (`StudentOutputs`, `TeacherOutputs`) on a batch; returns as `losses`."""
    frames, num_valid = batch["frames"], batch["num_valid"]
    # What single terms and options ask for of the input; the rest is left uncomputed.
    signal = targets = order = None
    if options.scd_ignore_static:
        signal = scd.signal_weights(frames, num_valid, model.grid.tubelet, model.patch, options.signal_floor)
    if student.pixels is not None:
        targets = pixel.pixel_targets(model.apply({}, frames, num_valid, method="grey_patches"))
    if options.scd_pairing == "reference":
        order = masking.visible_then_masked(masks.decoder_view, model.grid.tokens)
    masked = masking.masked(masks.decoder_view, model.grid.tokens)
    inputs = objective_lib.Batch(num_valid, model.grid.frames, masked, order, signal, targets, key)
    return objective_lib.objective(
        options, student, jax.lax.stop_gradient(teacher_outputs), memory, inputs, temperature
    )


def accumulated(
    parts: int,
    model: Discovr,
    options: objective_lib.LossOptions,
    params: dict,
    teacher: dict,
    memory: objective_lib.LossState,
    batch: dict,
    masks: Masks,
    temperature: jax.Array,
    key: jax.Array | None = None,
):
    """Value and gradient of `losses` with the activations of one part of the batch in memory at a time.

    The objective couples the whole batch (Sinkhorn, centres, weighted means), so losses of the parts cannot simply be
    added. Instead the outputs of all parts come first, then the objective of the whole batch and its gradient by those
    outputs, then each part once more, forward and backward from that gradient. The numbers are those of the whole
    batch; the price is a second forward of the students.

    Returns: ((total, (new memory, metrics)), gradient), as `jax.value_and_grad(losses, argnums=2, has_aux=True)`.
    """
    size = batch["frames"].shape[0]

    def cut(tree):
        # Part i is every parts-th clip from the i-th, so that each device holds its share of every part.
        def strided(x):
            grouped = x.reshape(size // parts, parts, x.shape[0] // size, *x.shape[1:])
            return jnp.swapaxes(grouped, 0, 1).reshape(parts, -1, *x.shape[1:])

        return jax.tree.map(strided, tree)

    def joined(tree):
        def interleaved(x):
            grouped = x.reshape(parts, size // parts, -1, *x.shape[2:])
            return jnp.swapaxes(grouped, 0, 1).reshape(-1, *x.shape[2:])

        return jax.tree.map(interleaved, tree)

    def student(params, clips, masks):
        outputs = model.apply({"params": params}, **clips, masks=masks, method="student")
        return outputs.replace(prototypes=None)  # of no part: they meet the whole batch in the objective

    def forward(part):
        clips = part[0]["frames"], part[0]["num_valid"]
        teacher_outputs = model.apply({"params": teacher}, *clips, method="teacher") if teacher else None
        return student(params, *part), teacher_outputs

    # First pass: the outputs of all parts, none of their activations kept.
    batch_parts = cut((batch, masks))
    outputs, teacher_outputs = joined(jax.lax.map(forward, batch_parts))
    if "prototypes" in params:
        outputs = outputs.replace(prototypes=params["prototypes"]["vectors"])
    # The objective couples all clips, so it is computed once, on the outputs of the whole batch.
    value, output_grads = jax.value_and_grad(objective, has_aux=True)(
        outputs, teacher_outputs, model, options, memory, batch, masks, temperature, key
    )

    def backward(grads, part):
        piece, part_grads = part
        _, vjp = jax.vjp(lambda p: student(p, *piece), params)
        return jax.tree.map(jnp.add, grads, vjp(part_grads)[0]), None

    # Second pass: each part forward again, and backward from its share of the gradient by the outputs.
    part_output_grads = cut(output_grads.replace(prototypes=None))
    grads, _ = jax.lax.scan(backward, jax.tree.map(jnp.zeros_like, params), (batch_parts, part_output_grads))
    if "prototypes" in params:
        grads = grads | {"prototypes": {"vectors": output_grads.prototypes}}
    return value, grads


def make_step(
    model: Discovr,
    options: objective_lib.LossOptions,
    masks: MaskOptions,
    tx: optax.GradientTransformation,
    schedules: schedules_lib.Schedules,
    ema_order: str,
    seed: int,
    gradient_accumulation_steps: int = 1,
    views: views_lib.ViewOptions = views_lib.MASKS_ALONE,
):
    """The pure step `(state, batch) -> (state, metrics)`; batch: of `views.input_shapes`.

    With `gradient_accumulation_steps` > 1 gradients are summed over parts of the batch, see `accumulated`.

    Randomness is a function of (seed, step): a run that resumes draws what it would have drawn.
    """
    if ema_order not in ("after", "before"):
        raise ConfigError(f"ema.order must be 'after' or 'before', not {ema_order!r}")

    def step(state: TrainState, batch: dict) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        step_masks = draw_masks(key, model, masks, batch["frames"].shape[0])
        return apply_step(state, with_views(key, batch), step_masks)

    def with_views(key, batch: dict) -> dict:
        # The masks split this key in three; a folded one is another.
        return views_lib.add_views(jax.random.fold_in(key, 1), batch, views, masks.video_views)

    def gradients(state: TrainState, batch: dict, step_masks: Masks):
        """Parameters and teacher as the step uses them; total, memory and metrics; and the gradient."""
        # The optimizer has changed the prototypes' length; scores are cosines.
        params, teacher = unit_prototypes(state.params), state.teacher
        # The reference implementation moves its teachers first, towards the student of the step before.
        if ema_order == "before":
            teacher = ema(teacher, params, schedules.ema_momentum(state.step))
        gradient = jax.value_and_grad(losses, argnums=2, has_aux=True)
        if gradient_accumulation_steps > 1:
            gradient = partial(accumulated, gradient_accumulation_steps)
        # Apart from the keys of masks and views, so that what a term draws does not depend on theirs.
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), state.step), 2)
        value, grads = gradient(
            model, options, params, teacher, state.memory, batch, step_masks, schedules.temperature(state.step), key
        )
        return params, teacher, value, _freeze(grads, state.step, schedules)

    def apply_step(state: TrainState, batch: dict, step_masks: Masks):
        lr, momentum = schedules.lr(state.step), schedules.ema_momentum(state.step)
        params, teacher, (total, (memory, metrics)), grads = gradients(state, batch, step_masks)
        # Optimizer. Its updates lack the learning rate, so that a skipped one cannot shift the schedule.
        updates, opt_state = tx.update(grads, state.opt_state, params)
        new_params = jax.tree.map(lambda p, u: p - lr * u, params, updates)
        # Held back by hand: their moments go on, as those of every other parameter.
        if schedules.freeze_prototypes and "prototypes" in params:
            frozen = state.step < schedules.freeze_prototypes
            vectors = jnp.where(frozen, params["prototypes"]["vectors"], new_params["prototypes"]["vectors"])
            new_params = new_params | {"prototypes": {"vectors": vectors}}
        # Teachers follow the student that has just moved (DINO, and the paper).
        if ema_order == "after":
            teacher = ema(teacher, new_params, momentum)
        grad_norm = optax.tree.norm(grads)
        # Where loss or gradient is not finite, only the counters move. No branch: the step stays one program.
        finite = jnp.isfinite(total) & jnp.isfinite(grad_norm)
        new = state.replace(params=new_params, teacher=teacher, opt_state=opt_state, memory=memory)
        new_state = guarded(finite, new, state)
        new_state = new_state.replace(step=state.step + 1, skipped=jnp.where(finite, 0, state.skipped + 1))
        # Logged beside the losses and the monitors of the terms.
        metrics |= {
            "optim/lr": lr,
            "optim/grad_norm": grad_norm,
            "teacher/momentum": momentum,
            "teacher/temperature": schedules.temperature(state.step),
            "skipped": new_state.skipped,
        }
        return new_state, metrics

    def module_norms(state: TrainState, batch: dict) -> dict[str, jax.Array]:
        """Norm of the gradient of each module, for `discovr_jax.replay`."""
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        step_masks = draw_masks(key, model, masks, batch["frames"].shape[0])
        batch = with_views(key, batch)
        return {name: optax.tree.norm(tree) for name, tree in gradients(state, batch, step_masks)[-1].items()}

    step.apply, step.module_norms = apply_step, module_norms
    return step


def guarded(finite: jax.Array, new: TrainState, old: TrainState) -> TrainState:
    """A non-finite step is not applied. (Its counter advances all the same: the next batch is another one.)"""
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)


def unit_prototypes(params: dict) -> dict:
    """Prototypes at unit length: scores are cosines. Renormalised when read, at the start of every step."""
    if "prototypes" not in params:
        return params
    return params | {"prototypes": {"vectors": l2_normalise(params["prototypes"]["vectors"])}}


def _freeze(grads: dict, step: jax.Array, schedules: schedules_lib.Schedules) -> dict:
    """No gradient to the heads' last layers during the first steps (DINO: it tames the start)."""
    if schedules.freeze_last == 0:
        return grads
    keep = (step >= schedules.freeze_last).astype(jnp.float32)
    heads = ("video_head", "image_head")
    return grads | {n: grads[n] | {"last": grads[n]["last"] * keep} for n in heads if n in grads}


def abstract_state(model, tx, masks, mesh) -> TrainState:
    """Shapes, dtypes and shardings of the state, without building anything."""
    shapes = jax.eval_shape(lambda key: init_state(model, tx, masks, key), jax.random.key(0))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        mesh_lib.shardings(shapes, mesh),
    )
