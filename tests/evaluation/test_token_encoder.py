"""Tokens of a real model for the evaluators: those of the tubelet asked for, on any mesh."""

import jax
import numpy as np

from discovr_jax.evaluation import evaluate
from discovr_jax.models import readouts


def test_tokens_of_a_frame_are_those_of_its_tubelet_on_any_mesh(tiny, make_mesh):
    params = {"video_encoder": tiny.state.teacher["video_encoder"]}
    frames, num_valid = tiny.batch["frames"], tiny.batch["num_valid"]
    position = np.array([0, 1, 2, 3, 3, 2, 1, 0], np.int32)
    apply = jax.jit(lambda p, *clips: tiny.model.apply({"params": p}, *clips, method="encode_video"))
    expected = np.asarray(apply(params, frames, num_valid))
    by_time = expected[:, 1:].reshape(8, 2, 16, 16)
    for shape in ((1, 1, 1), (4, 2, 1)):
        encoder = evaluate.make_token_encoder(tiny.model, make_mesh(*shape))(params, "key")
        found = encoder.of_frame(frames, num_valid, position)
        assert found.dtype == np.float16 and encoder.grid == tiny.model.grid and encoder.width == 16
        np.testing.assert_allclose(found, by_time[np.arange(8), position // 2], atol=4e-3)
        over_time = readouts.over_time(expected, num_valid, tiny.model.grid)
        np.testing.assert_allclose(encoder.of_clip(frames, num_valid), over_time, atol=1e-4)
