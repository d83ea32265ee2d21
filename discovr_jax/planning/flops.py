"""Floating point operations of the recipe, from its sizes: the numerator of MFU.

Counted as the recipe needs them, not as the program spares them: every patch of every view is embedded, in three
channels, and every block of an encoder computes all of its tokens; the image teacher sees a frame once. Matrix products
only, two operations a multiply-add. So the count stays the same while the program gets faster.
"""

import jax

from discovr_jax.method import step as train_step
from discovr_jax.models.discovr import GLOBAL_VIEW, LOCAL_VIEWS, Discovr

BACKWARD = 3  # forward and backward of a product of which both sides have a gradient


def step_flops(model: Discovr, masks: train_step.MaskOptions) -> dict[str, float]:
    """Operations of one training step per clip, by part; forward, and backward where there is one.

    Args:
      model, masks: of the experiment.

    Returns:
      {part: FLOPs}; parts that do not train are absent. The sum is the step.
    """
    result = {}
    for part, forward in forward_flops(model, masks).items():
        factor = 1 if part.endswith("teacher") else BACKWARD
        if part == "heads":
            student, teacher = _head_rows(model, masks)
            if student:  # else the projectors alone
                factor = (BACKWARD * student + teacher) / (student + teacher)
        if part == "scd":
            factor = 2.5  # tokens and prototypes get a gradient from the video scores, prototypes from the image scores
        result[part] = factor * forward
    return result


def forward_flops(model: Discovr, masks: train_step.MaskOptions) -> dict[str, float]:
    """Operations of the forward pass per clip, by part."""
    grid, width, outputs = model.grid, model.width, model.outputs
    masked = jax.eval_shape(lambda key: train_step.draw_masks(key, model, masks, 1), jax.random.key(0))
    result = {}

    def encode(sequences, visible, patches, tubelet):
        embedded = 2 * sequences * patches * 3 * tubelet * model.patch**2 * width
        return embedded + transformer(sequences, 1 + visible, width, model.depth, model.mlp_dim)

    if outputs & {"image_logits", "image_tokens", "frame_amplitudes"}:
        frames = grid.frames // model.image_teacher_every
        result["image teacher"] = encode(frames, grid.num_positions, grid.num_positions, 1)
    if "video_logits" in outputs:
        result["video teacher"] = encode(1, grid.tokens, grid.tokens, grid.tubelet)
    if "image_logits" in outputs:
        counts = [view.shape[1] for view in masked.image_views]
        result["image students"] = sum(encode(grid.frames, count, grid.num_positions, 1) for count in counts)
    if "frame_embeddings" in outputs:
        result["phase views"] = encode(2 * model.phase_frames, grid.num_positions, grid.num_positions, 1)
    decodes = outputs & {"decoded", "pixels"}
    views = [masked.decoder_view] * bool(outputs & GLOBAL_VIEW)
    views += list(masked.local_views) * bool(outputs & LOCAL_VIEWS)
    if views:
        result["video students"] = sum(encode(1, view.shape[1], grid.tokens, grid.tubelet) for view in views)
    if decodes:
        narrow, visible = model.decoder_width, masked.decoder_view.shape[1]
        result["decoder"] = transformer(1, grid.tokens, narrow, model.decoder_depth)
        result["decoder"] += 2 * narrow * width * (visible + grid.tokens)
        if "pixels" in outputs:
            result["decoder"] += 2 * grid.tokens * width * grid.tubelet * model.patch**2
    if "prototypes" in outputs:
        result["scd"] = 2 * 2 * grid.tokens * model.num_prototypes * width
    rows = sum(_head_rows(model, masks))
    if rows:
        sizes = (width, model.head_hidden, model.head_hidden, model.head_bottleneck, model.head_outputs)
        result["heads"] = 2 * rows * sum(a * b for a, b in zip(sizes, sizes[1:], strict=False))
    projected = ("embeddings" in outputs) * masks.video_views + 2 * model.phase_frames
    if projected:
        sizes = (width, model.projector_hidden, model.projector_hidden, model.projector_outputs)
        products = 2 * projected * sum(a * b for a, b in zip(sizes, sizes[1:], strict=False))
        result["heads"] = result.get("heads", 0) + products
    if "frame_amplitudes" in outputs:
        sizes = (width, model.projector_hidden, model.projector_hidden, width)
        products = 2 * sum(a * b for a, b in zip(sizes, sizes[1:], strict=False))
        result["heads"] = result.get("heads", 0) + products
    return result


def transformer(sequences: int, tokens: int, width: int, depth: int, mlp_dim: int | None = None) -> float:
    """Operations of `depth` blocks: 4 D^2 weights per token and those of the MLP, scores and weighted values of N."""
    weights = 4 * width**2 + 2 * width * (mlp_dim or 4 * width)
    return sequences * tokens * depth * (2 * weights + 4 * tokens * width)


def _head_rows(model: Discovr, masks: train_step.MaskOptions) -> tuple[int, int]:
    """CLS tokens a clip through the heads of students and teachers."""
    video, image = ("video_logits" in model.outputs), ("image_logits" in model.outputs) * model.grid.frames
    return video * masks.video_views + image * masks.image_views, video + image
