"""Segmentation of labelled frames from frozen tokens, by one linear layer per token and by a light decoder.

    expert masks -> a clip that shows each labelled frame -> tokens of the tubelet that holds it
      -> head (weight decay and steps chosen on validation Dice) -> classes of every pixel at the record's frame size,
         of each class its largest region
      -> Dice, IoU, Hausdorff 95 by frame, ED and ES apart and together

Beside the encoders stands `mean_mask`, the mean training mask of the frame's phase, which sees no picture.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from discovr_jax import trees
from discovr_jax.data import records, transforms
from discovr_jax.evaluation import interface
from discovr_jax.evaluation import results as results_lib
from discovr_jax.evaluation.evaluators import heads, mask_ef
from discovr_jax.evaluation.features import cache as feature_cache
from discovr_jax.evaluation.features import extract as feature_extraction
from discovr_jax.evaluation.features import tokens
from discovr_jax.evaluation.metrics import masks as mask_metrics
from discovr_jax.evaluation.metrics import videos as video_metrics

CAVITY = 1  # of records.MASK_CLASSES
_SUFFIX = {1: "", 2: "_myocardium", 3: "_left_atrium"}  # the left ventricular cavity is what is meant otherwise
_PREFIX = {"linear": "", "decoder": "decoder_"}
_MEASURES = ("dice", "iou", "hausdorff95_mm", "hausdorff95_px")
_PHASES = ("", *(f"_{phase}" for phase in tokens.PHASES))
METRICS = video_metrics.means(
    *("".join(name) for name in itertools.product(_PREFIX.values(), _MEASURES, _SUFFIX.values(), _PHASES)),
    *(f"{prefix}mask_ef_error{suffix}" for prefix in _PREFIX.values() for suffix in ("", "_calibrated")),
)
MEAN_MASK = "mean_mask"
_FITTED = "fitted "  # in front of the names of a head's arrays
_BATCH = 32  # tubelets that `apply` takes at once
PICTURES = 3  # test videos whose ED and ES frames are handed on to the report


class LinearHead(nn.Module):
    """Tokens [B, rows * cols, D] -> logits [B, rows * patch, cols * patch, classes], one linear layer per token.

    Its weights are the same at every patch position, its bias is the position's own: tokens that say nothing give the
    mean mask, whether or not they tell where they are.
    """

    rows: int
    cols: int
    patch: int
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        zeros, outputs = nn.initializers.zeros, self.patch**2 * self.classes
        x = nn.Dense(outputs, use_bias=False, kernel_init=zeros)(x.astype(jnp.float32))
        x = x + self.param("bias", zeros, (self.rows * self.cols, outputs))
        return fold(x.reshape(x.shape[0], self.rows, self.cols, -1), self.patch, self.classes)


class DecoderHead(nn.Module):
    """The same shapes: twice a 3 x 3 convolution to a grid of doubled size, then a linear layer per grid cell."""

    rows: int
    cols: int
    patch: int
    classes: int
    widths: tuple[int, ...] = (48, 24)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32).reshape(x.shape[0], self.rows, self.cols, -1)
        x, cell = nn.relu(nn.Dense(self.widths[0])(x)), self.patch
        for width in self.widths:
            finer = 2 if cell % 2 == 0 else 1
            x, cell = nn.relu(fold(nn.Dense(finer**2 * width)(around(x)), finer, width)), cell // finer
        return fold(nn.Dense(cell**2 * self.classes)(x), cell, self.classes)


def around(x: jax.Array) -> jax.Array:
    """Each grid cell with its eight neighbours, zeros outside: [B, h, w, C] -> [B, h, w, 9 C].

    A linear layer of these is a 3 x 3 convolution, whose gradient is many times slower on the CPU backend.
    """
    height, width = x.shape[1:3]
    framed = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.concatenate(
        [framed[:, i : i + height, j : j + width] for i, j in itertools.product(range(3), repeat=2)], -1
    )


HEADS = {"linear": LinearHead, "decoder": DecoderHead}


def fold(x: jax.Array, cell: int, classes: int) -> jax.Array:
    """[B, rows, cols, cell * cell * classes] -> [B, rows * cell, cols * cell, classes]."""
    batch, rows, cols, _ = x.shape
    x = x.reshape(batch, rows, cols, cell, cell, classes)
    return jnp.swapaxes(x, 2, 3).reshape(batch, rows * cell, cols * cell, classes)


def shares(masks: np.ndarray, classes: Sequence[int], size: int) -> np.ndarray:
    """What part of each pixel of a size x size frame each class covers: uint8 [N, size, size, classes], 0 to 255."""
    whole = (0, 0, *masks.shape[1:])
    covered = [transforms.crop_resize(np.uint8(255) * (masks == one), whole, size) for one in classes]
    return np.stack(covered, -1)


def cross_entropy(logits: jax.Array, covered: jax.Array) -> jax.Array:
    """Mean over pixels, against `shares` of the foreground classes; the rest of a pixel is background."""
    covered = covered.astype(jnp.float32) / 255
    rest = jnp.clip(1 - covered.sum(-1, keepdims=True), 0, 1)
    return -(jnp.concatenate([rest, covered], -1) * jax.nn.log_softmax(logits)).sum(-1).mean()


@functools.lru_cache
def _to_maps(size: int):
    """logits [B, h, w, classes] -> number of the likeliest class of each pixel of a size x size frame, uint8."""

    def maps(logits):
        resized = jax.image.resize(logits, (logits.shape[0], size, size, logits.shape[-1]), "bilinear")
        return resized.argmax(-1).astype(jnp.uint8)

    return maps


def run(
    evaluation: results_lib.Evaluation,
    family: str,
    context: tokens.TokenContext,
    *,
    heads_used: tuple[str, ...],
    linear: Mapping[str, Any],
    decoder: Mapping[str, Any],
    max_gib: float,
) -> list[dict[str, Any]]:
    """Enters the metrics of every head; options: `config.eval.evaluators.segmentation`.

    Returns:
      Pictures, of test frames: {"title", "phase", "frame" uint8 [S, S], "truth" uint8 [S, S], "predictions"
      {(head, encoder): uint8 [S, S]}}, classes of `records.MASK_CLASSES`; encoders by their first seed.

    Raises:
      interface.Skip: a split has no expert masks, or the tokens take more than `max_gib`.
    """
    frames = {split: tokens.labelled(context, split) for split in feature_extraction.SPLITS}
    for split, each in frames.items():
        if not len(each.record):
            videos = len(context.sources[split])
            raise interface.Skip(
                f"no masks: none of the {videos} videos of split {split} has a mask drawn by an expert"
            )
    classes = [int(one) for one in np.unique(frames["train"].masks) if one]
    grid = context.members[0][2].grid
    tokens.require_space(
        context,
        [len(each.record) for each in frames.values()],
        grid.num_positions,
        max_gib,
        f"eval.evaluators.{family}.max_gib",
    )
    options = {"linear": heads.HeadOptions(**linear), "decoder": heads.HeadOptions(**decoder)}
    by_head = _by_head(context, family, frames, classes, {name: options[name] for name in heads_used})
    test, columns = frames["test"], context.fields["test"]
    ids = [f"{columns['id'][r]}:{f}" for r, f in zip(test.record, test.frame, strict=True)]
    patients = results_lib.patients_of(columns)[test.record]
    rows = results_lib.make_rows(ids, patients, np.full(len(ids), np.nan), context.config)
    constant, val_constant = (mean_masks(frames["train"], frames[each].phase, classes) for each in ("test", "val"))
    of_constant = _measured(test, classes, constant, _line(frames["val"], val_constant))
    for head in heads_used:
        predictions = {
            name: [_predictions(test, classes, head, one) for one in group] for name, group in by_head[head].items()
        }
        predictions[MEAN_MASK] = [_predictions(test, classes, head, of_constant)]
        results_lib.add(
            evaluation,
            family,
            rows,
            {name: METRICS[name] for name in predictions[MEAN_MASK][0].outputs},
            predictions,
            kind="segmentation",
            field="masks",
            readouts=dict.fromkeys(predictions, "tokens"),
            chosen_by="validation Dice",
            part=family if head == "linear" else f"{family}_{head}",
        )
        if results_lib.STUDIED in predictions:
            mine = predictions[results_lib.STUDIED][0]
            options_of = {"head": head, "classes": classes, "size": context.sources["test"].frame_size}
            evaluation.heads[family if head == "linear" else f"{family}_{head}"] = results_lib.FittedHead(
                "segmentation", "masks", "tokens", options_of, mine, {}, {}, rows
            )
    evaluation.results["videos"][family] = {split: len(np.unique(each.record)) for split, each in frames.items()}
    maps = {(head, name): group[0]["maps"] for head, all_of in by_head.items() for name, group in all_of.items()}
    maps["none", MEAN_MASK] = constant
    return _pictures(context, test, maps)


def mean_masks(train: tokens.Labelled, phase: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """The likeliest class of each pixel over the training masks of the same phase (of all, where there is none).

    Args:
      phase: int [N], of the frames that are asked for.

    Returns:
      uint8 [N, S, S], classes of `records.MASK_CLASSES`.
    """
    every = np.array([0, *classes], np.uint8)
    result = {}
    for one in np.unique(phase):
        chosen = train.masks[train.phase == one]
        chosen = chosen if len(chosen) else train.masks
        result[one] = every[np.stack([(chosen == number).mean(0) for number in every]).argmax(0)]
    return np.stack([result[one] for one in phase])


def measure(truth: tokens.Labelled, maps: np.ndarray, classes: Sequence[int], line=None) -> dict[str, np.ndarray]:
    """Dice, IoU and Hausdorff 95 of each frame and class; and what the cavity's masks of a video make of its EF.

    The distance is in mm where the spacing of every frame is known, else in pixels, and its name says so.

    Args:
      maps: uint8 [N, S, S], classes of `records.MASK_CLASSES`.
      line: `mask_ef.calibration`, where there is one.

    Returns:
      {"dice", "iou", "hausdorff95_mm" or "hausdorff95_px", each with the suffix of the class and with those of
      `tokens.PHASES`; and those of `mask_ef.errors`: float64 [N], NaN where it does not apply}.
    """
    result, (spacing, unit) = {}, mask_ef.spacing(truth)
    for one in classes:
        wanted, got = truth.masks == one, maps == one
        values = {"dice": mask_metrics.dice(wanted, got), "iou": mask_metrics.iou(wanted, got)}
        values[f"hausdorff95_{unit}"] = mask_metrics.hausdorff95(wanted, got, spacing)
        for name, column in values.items():
            result[f"{name}{_SUFFIX[one]}"] = column
            for number, phase in enumerate(tokens.PHASES):
                if (truth.phase == number).any():
                    result[f"{name}{_SUFFIX[one]}_{phase}"] = np.where(truth.phase == number, column, np.nan)
    return result | mask_ef.errors(truth, truth.masks == CAVITY, maps == CAVITY, line)


def _by_head(context, family, frames, classes, options: Mapping[str, heads.HeadOptions]) -> dict[str, dict[str, list]]:
    """{head: {encoder: [{"maps", "decay", "steps", measures}, one per seed]}}; what is not cached is trained."""
    by_head: dict[str, dict[str, list]] = {head: {} for head in options}
    tokens_of = functools.cache(lambda split: tokens.of_frames(context, split, frames[split]))
    targets = [
        [context.key(split), trees.fingerprint(vars(frames[split])), classes] for split in feature_extraction.SPLITS
    ]
    for (number, (name, seed, encoder)), head in itertools.product(enumerate(context.members), options):
        settings = {"head": head, "options": str(options[head]), "seed": context.config.seed, "keeps": "parameters"}
        key = feature_cache.cache_key(encoder.key, settings | {"version": heads.HEADS_VERSION}, targets)

        def make(_, number=number, head=head):
            arrays = [tokens_of(split)[number] for split in feature_extraction.SPLITS]
            return [_train(context, frames, classes, number, arrays, head, options[head])]

        file = f"{context.dataset}-{name}-{seed}-test-{family}_{head}"
        by_head[head].setdefault(name, []).extend(
            feature_cache.cached(context.directory, [file], [key], make, context.share)
        )
    return by_head


def _train(
    context, frames, classes, number: int, arrays: list[np.ndarray], head_name: str, options: heads.HeadOptions
) -> dict[str, np.ndarray]:
    """One head on the tokens of one of `context.members`."""
    name, seed, encoder = context.members[number]
    tokens.finite(name, seed, *arrays)
    mean, scale = heads.scaling(arrays[0])
    train, val, test = (heads.scaled(array, mean, scale) for array in arrays)
    head = HEADS[head_name](encoder.grid.rows, encoder.grid.cols, encoder.patch, 1 + len(classes))

    def maps(params, inputs):
        return class_maps(head, params, inputs, classes, context.sources["test"].frame_size, options.batch)

    def score(params):
        result = maps(params, val)
        return heads.mean_score([mask_metrics.dice(frames["val"].masks == one, result == one) for one in classes])

    covered = shares(frames["train"].masks, classes, encoder.grid.rows * encoder.patch)
    fitted = heads.fit(head, cross_entropy, score, train, covered, options, context.config.seed)
    details = {"val_dice": np.asarray(fitted.val_score)}
    details |= {name: np.asarray(value) for name, value in fitted.details.items()}
    params = flax.traverse_util.flatten_dict(fitted.params, sep="/")
    arrays_of_head = {"mean": mean, "scale": scale} | {f"head/{n}": np.asarray(each) for n, each in params.items()}
    details |= {_FITTED + name: each for name, each in arrays_of_head.items()}
    line = _line(frames["val"], maps(fitted.params, val))
    return _measured(frames["test"], classes, maps(fitted.params, test), line) | details


def apply(
    head_name: str, fitted: Mapping[str, np.ndarray], tokens: np.ndarray, grid, patch: int, classes, size: int
) -> np.ndarray:
    """What a kept head makes of tokens.

    Args:
      head_name: of `HEADS`; fitted: as in `interface.Predictions`.
      tokens: float16 [N, patches, D] of tubelets, in raster order; grid, patch: of their encoder.
      classes: of the head, without background; size: pixels of a side of the maps.

    Returns:
      uint8 [N, size, size], classes of `records.MASK_CLASSES`.
    """
    params = {name.removeprefix("head/"): each for name, each in fitted.items() if name.startswith("head/")}
    head = HEADS[head_name](grid.rows, grid.cols, patch, 1 + len(classes))
    inputs = heads.scaled(tokens, fitted["mean"], fitted["scale"])
    return class_maps(head, flax.traverse_util.unflatten_dict(params, sep="/"), inputs, classes, size, _BATCH)


def class_maps(head: nn.Module, params, inputs: Any, classes: Sequence[int], size: int, batch: int) -> np.ndarray:
    """The likeliest class of each pixel, of each class its largest region: uint8 [N, size, size].

    Args:
      head: inputs -> logits [B, h, w, 1 + classes]; inputs: NumPy arrays [N, ...], taken `batch` at a time.
      classes: of `records.MASK_CLASSES`, without background.
    """
    every = np.array([0, *classes], np.uint8)
    maps = every[heads.outputs(heads.applied(head, _to_maps(size)), params, inputs, batch)]
    return mask_metrics.largest_regions(maps)


def _line(val: tokens.Labelled, maps: np.ndarray) -> np.ndarray | None:
    return mask_ef.calibration(val, val.masks == CAVITY, maps == CAVITY)


def _measured(truth: tokens.Labelled, classes, maps: np.ndarray, line: np.ndarray | None) -> dict[str, np.ndarray]:
    return {"maps": maps, **measure(truth, maps, classes, line)}


def _predictions(truth: tokens.Labelled, classes, head: str, result: Mapping[str, np.ndarray]) -> interface.Predictions:
    """Outputs under the names of METRICS; how often a class was not found at all goes into the details."""
    details = {name: result[name].item() for name in ("decay", "steps", "val_dice") if name in result}
    for one in classes:
        there = (truth.masks == one).any((1, 2))
        name = records.MASK_CLASSES[one].replace(" ", "_")
        details[f"frames_without_{name}"] = int((there & ~(result["maps"] == one).any((1, 2))).sum())
    outputs = {_PREFIX[head] + name: result[name] for name in result if _PREFIX[head] + name in METRICS}
    fitted = {name.removeprefix(_FITTED): each for name, each in result.items() if name.startswith(_FITTED)}
    return interface.Predictions(None, None, details, outputs, fitted=fitted)


def _pictures(context: tokens.TokenContext, test: tokens.Labelled, maps: Mapping[tuple[str, str], np.ndarray]):
    """ED and ES of videos evenly spread over the test split (not chosen by how well they went)."""
    both = [r for r in np.unique(test.record) if set(test.phase[test.record == r]) >= {0, 1}]
    source, result = context.sources["test"], []
    for record in [both[i] for i in np.unique(np.linspace(0, len(both) - 1, PICTURES).astype(int))] if both else []:
        compressed, size = source[int(record)]["frames"], source.frame_size
        for phase in range(len(tokens.PHASES)):
            row = int(np.flatnonzero((test.record == record) & (test.phase == phase))[0])
            result.append(
                {
                    "title": f"{context.fields['test']['id'][record]}",
                    "phase": tokens.PHASES[phase].upper(),
                    "frame": records.decode_frames(compressed, size, size, [int(test.frame[row])])[0],
                    "truth": test.masks[row],
                    "predictions": {name: each[row] for name, each in maps.items()},
                }
            )
    return result
