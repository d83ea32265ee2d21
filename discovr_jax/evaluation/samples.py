"""A few test videos as the report shows them: prototypes of their tokens, what CLS attends to, what is most similar."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from discovr_jax.data import pipeline, records
from discovr_jax.losses import scd
from discovr_jax.losses.interface import LossOptions
from discovr_jax.losses.sinkhorn import sinkhorn
from discovr_jax.method import experiment as experiment_lib
from discovr_jax.method import step as train_step
from discovr_jax.models.discovr import Discovr
from discovr_jax.models.transformer import attention_weights
from discovr_jax.parallel import mesh as mesh_lib

CLIPS = 4  # painted
QUERIES, NEIGHBOURS = 4, 5  # shown


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 .. count - 1, evenly spaced, both ends included."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int)).tolist()


def of_clips(config: ConfigDict, state, model: Discovr, source, mesh) -> dict[str, Any]:
    """First clips of videos spread evenly over a split: what the teachers make of them.

    Prototypes are assigned within as many clips as a batch of the evaluation holds; `CLIPS` of them are shown.

    Returns:
      {"clips": [{"title": str, "frames": uint8 [t, H, W], the first of each tubelet, "attention": float32 [heads, t,
      rows, cols], see `cls_attention`, and with SCD "assignments": int32 [t, rows, cols]}], and with SCD "usage":
      {"assigned", "nearest": int [prototypes], tokens of real frames of each, see `prototypes`}}.
    """
    chosen = spread(len(source), config.eval.batch_size)
    with pipeline.eval_batches(source, config, batch_size=config.eval.batch_size, indices=chosen) as batches:
        rows = list(batches)
    frames, num_valid, record = (
        np.concatenate([row[name] for row in rows]) for name in ("frames", "num_valid", "record")
    )
    first = [int(np.flatnonzero(record == index)[0]) for index in chosen]
    frames, num_valid = frames[first], num_valid[first]
    everywhere = {"out_shardings": mesh_lib.replicated(mesh)}
    shown = spread(len(chosen), CLIPS)
    attend = jax.jit(lambda params, *clips: cls_attention(model, params, *clips), **everywhere)
    attention = jax.device_get(attend(state.teacher, frames[shown], num_valid[shown]))
    names = records.record_fields(source, ["id", "ef"])
    clips = []
    for row, clip in enumerate(shown):
        name, ef = names["id"][chosen[clip]], names["ef"][chosen[clip]]
        title = f"{name}, ejection fraction {ef:.0f} %" if np.isfinite(ef) else str(name)
        clips.append({"title": title, "frames": frames[clip][:: model.grid.tubelet], "attention": attention[row]})
    if "prototypes" not in model.outputs:
        return {"clips": clips}
    options = experiment_lib.make_options(config)
    assign = jax.jit(lambda *inputs: prototypes(model, options, *inputs), **everywhere)
    assigned, nearest = jax.device_get(assign(state, frames, num_valid))
    clips = [clip | {"assignments": assigned[row]} for clip, row in zip(clips, shown, strict=True)]
    real = np.arange(model.grid.time) * model.grid.tubelet < num_valid[:, None]  # not what repeats the last frame
    usage = {
        name: np.bincount(each[real].ravel(), minlength=model.num_prototypes)
        for name, each in (("assigned", assigned), ("nearest", nearest))
    }
    return {"clips": clips, "usage": usage}


def prototypes(model: Discovr, options: LossOptions, state, frames, num_valid) -> tuple[jax.Array, jax.Array]:
    """Prototype of each image teacher token: by Sinkhorn over the given clips, as in training, and the most similar.

    Args:
      frames: uint8 [B, T, H, W]; num_valid: int32 [B].

    Returns:
      Both int32 [B, t, rows, cols].
    """
    teacher_outputs = model.apply({"params": state.teacher}, frames, num_valid, method="teacher")
    vectors = train_step.unit_prototypes(state.params)["prototypes"]["vectors"]
    scores = scd.image_scores(options, teacher_outputs.image_tokens, vectors, state.memory, model.grid.time)
    shape = (frames.shape[0], model.grid.time, model.grid.rows, model.grid.cols)
    assigned = sinkhorn(scores, options.scd_epsilon, options.scd_iterations)
    return assigned.argmax(-1).reshape(shape), scores.argmax(-1).reshape(shape)


def cls_attention(model: Discovr, params, frames: jax.Array, num_valid: jax.Array) -> jax.Array:
    """What the CLS token of the video encoder attends to in the last block.

    Args:
      params: with "video_encoder"; frames: uint8 [B, T, H, W]; num_valid: int32 [B].

    Returns:
      float32 [B, heads, t, rows, cols], the weight of each token; with that of CLS itself they sum to 1.
    """
    last = f"block{model.depth - 1}"
    _, variables = model.apply(
        {"params": params}, frames, num_valid, only_cls=True, method="encode_video", mutable="intermediates",
        capture_intermediates=lambda module, _: module.name == "norm1" and module.parent.name == last,
    )  # fmt: skip
    x = variables["intermediates"]["video_encoder"]["transformer"][last]["norm1"]["__call__"][0]
    attend = params["video_encoder"]["transformer"][last]["attn"]
    weights = attention_weights(attend, x, model.heads, rows=1)[:, :, 0, 1:]
    return weights.reshape(*weights.shape[:2], model.grid.time, model.grid.rows, model.grid.cols)


def neighbours(results: Mapping[str, Any], sources, fields) -> list[dict[str, Any]]:
    """Test videos and the training videos most similar to them, as the retrieval evaluator found them.

    Args:
      results: content of results.json.
      sources: {"train": RecordSource, "test": RecordSource}; fields: {split: {"label", measurements: [N]}}.

    Returns:
      [{"field": the measurement that is compared, "query": video, "neighbours": [video with "similarity"]}], a video
      being {"id": str, "frame": uint8 [S, S], "is_ed": whether that is end-diastole, else the first frame, "label",
      "measured": float}; empty without retrieval.
    """
    retrievals = [entry["encoders"] for entry in results["readouts"].values() if entry["type"] == "retrieval"]
    if not retrievals or "discovr" not in retrievals[0]:
        return []
    result, field = (retrievals[0]["discovr"][name] for name in ("report", "details"))
    result, field = result["shown"], field[0]["field"]
    rows = {split: {str(name): row for row, name in enumerate(fields[split]["id"])} for split in ("train", "test")}

    def video(split: str, name: str) -> dict[str, Any]:
        row, source = rows[split][name], sources[split]
        record, size = source[row], source.frame_size
        frame = max(int(record["ed_frame"]), 0)
        picture = records.decode_frames(record["frames"], size, size, [frame], record_id=name)[0]
        values = {key: float(fields[split][column][row]) for key, column in (("label", "label"), ("measured", field))}
        return {"id": name, "frame": picture, "is_ed": int(record["ed_frame"]) >= 0, **values}

    return [
        {
            "field": field,
            "query": video("test", shown["id"]),
            "neighbours": [
                video("train", name) | {"similarity": similarity}
                for name, similarity in zip(shown["neighbours"][:NEIGHBOURS], shown["similarity"], strict=False)
            ],
        }
        for shown in (result[index] for index in spread(len(result), QUERIES))
    ]
