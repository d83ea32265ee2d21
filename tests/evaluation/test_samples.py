"""What the report shows of a few videos: attention maps, prototypes, neighbours."""

from functools import partial

import jax
import numpy as np
import pytest

from discovr_jax.data import records
from discovr_jax.evaluation import samples
from discovr_jax.models import transformer


def test_spread():
    assert samples.spread(10, 4) == [0, 3, 6, 9]
    assert samples.spread(2, 4) == [0, 1]
    assert samples.spread(0, 4) == []


@pytest.mark.parametrize("qkv_bias", ["none", "qv"])
def test_the_weights_are_those_that_attention_uses(qkv_bias):
    rng = np.random.default_rng(0)
    module = transformer.Attention(heads=3, qkv_bias=qkv_bias, dtype=np.float32)
    x = rng.normal(size=(2, 5, 12)).astype(np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    weights = transformer.attention_weights(params, x, heads=3, rows=2)
    assert weights.shape == (2, 3, 2, 5)
    v = x @ params["qkv"][:, 2] + params.get("v_bias", 0)
    mixed = np.einsum("bhnm,bmhd->bnhd", weights, v.reshape(2, 5, 3, 4)).reshape(2, 2, 12)
    wanted = module.apply({"params": params}, x)[:, :2]
    np.testing.assert_allclose(mixed @ params["proj"]["kernel"] + params["proj"]["bias"], wanted, atol=1e-4)


def test_cls_attention_is_that_of_the_last_block(make_tiny):
    tiny = make_tiny(**{"model.depth": 2})
    model, grid = tiny.model, tiny.model.grid
    attend = jax.jit(partial(samples.cls_attention, model))
    clips = tiny.batch["frames"], tiny.batch["num_valid"]
    weights = np.asarray(attend(tiny.state.teacher, *clips))
    assert weights.shape == (len(clips[0]), model.heads, grid.time, grid.rows, grid.cols)
    total = weights.sum((2, 3, 4))
    assert (weights > 0).all() and (total < 1).all()

    def without_queries(block):
        params = jax.tree.map(np.array, tiny.state.teacher)
        ours = params["video_encoder"]["transformer"][block]["attn"]
        ours["qkv"][:, 0] = ours.get("q_bias", np.zeros(1))[:] = 0
        return np.asarray(attend(params, *clips))

    # A block that asks nothing looks everywhere alike.
    np.testing.assert_allclose(without_queries(f"block{model.depth - 1}"), 1 / (1 + grid.tokens), rtol=1e-5)
    assert np.ptp(without_queries("block0")) > 1e-3
    recomputing = make_tiny(**{"model.depth": 2, "model.remat": "blocks"}).model
    again = jax.jit(partial(samples.cls_attention, recomputing))(tiny.state.teacher, *clips)
    np.testing.assert_allclose(again, weights, rtol=1e-5)


class Source(list):
    frame_size = 4


def _source(names, ed):
    pictures = [np.stack([np.full((4, 4), 10 * i + t, np.uint8) for t in range(3)]) for i in range(len(names))]
    return Source(
        {"frames": records.encode_frames(frames), "ed_frame": frame} for frames, frame in zip(pictures, ed, strict=True)
    )


def test_neighbours_are_read_at_end_diastole():
    sources = {"train": _source("ab", [2, -1]), "test": _source("q", [1])}
    fields = {
        "train": {"id": np.array(["a", "b"]), "label": np.array([0.0, 1]), "ef": np.array([60.0, np.nan])},
        "test": {"id": np.array(["q"]), "label": np.array([1.0]), "ef": np.array([30.0])},
    }
    shown = [{"id": "q", "neighbours": ["b", "a"], "similarity": [0.9, 0.8]}]
    one = {"report": {"shown": shown}, "details": [{"field": "ef"}]}
    results = {"readouts": {"retrieval": {"type": "retrieval", "encoders": {"discovr": one}}}}
    (found,) = samples.neighbours(results, sources, fields)
    assert found["field"] == "ef" and found["query"]["measured"] == 30 and found["query"]["frame"][0, 0] == 1
    first, second = found["neighbours"]
    assert (first["id"], first["is_ed"], first["frame"][0, 0], first["similarity"]) == ("b", False, 10, 0.9)
    assert (second["id"], second["is_ed"], second["frame"][0, 0], second["label"]) == ("a", True, 2, 0)
    assert np.isnan(first["measured"])
    assert samples.neighbours({"readouts": {}}, sources, fields) == []
