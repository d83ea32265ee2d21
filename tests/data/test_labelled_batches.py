"""Clips of labelled frames: ED and ES of a video of two frames keep tokens of their own."""

import numpy as np

from discovr_jax.data import pipeline, records
from tests.data.test_pipeline import SIDE, make_config, make_source


def test_ed_and_es_of_two_frames_are_shown_in_tubelets_of_their_own():
    """Pixels tell which frame they are: each clip begins with its own frame twice, not with one frame of each."""
    source = make_source([2])
    masks = np.zeros((2, SIDE, SIDE), np.uint8)
    frames = np.broadcast_to(np.array([10, 20], np.uint8)[:, None, None], (2, SIDE, SIDE))
    source.items[0] = records.make_record(
        frames, id="r", patient_id="p", masks=masks, mask_frames=[0, 1], mask_is_expert=[True, True]
    )
    config = make_config()
    config.data.stride = 1
    with pipeline.labelled_batches(source, config, [(0, 0), (0, 1)], tubelet=2, batch_size=2) as batches:
        (batch,) = batches
    shown = batch["frames"][:, :, 0, 0]
    tubelets = batch["position"] // 2 * 2
    assert [shown[row, first : first + 2].tolist() for row, first in enumerate(tubelets)] == [[10, 10], [20, 20]]
