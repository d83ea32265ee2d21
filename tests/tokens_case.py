"""A tiny dataset with masks, in memory, and encoders whose tokens are known; for the evaluators of tokens."""

import pathlib

import numpy as np
from ml_collections import ConfigDict

from discovr_jax.data import records
from discovr_jax.evaluation import results as results_lib
from discovr_jax.evaluation.features import cache as feature_cache
from discovr_jax.evaluation.features import extract as feature_extraction
from discovr_jax.evaluation.features import tokens
from discovr_jax.models.discovr import ClipGrid

SIZE, PATCH, FRAMES, STRIDE = 16, 4, 4, 2
GRID = ClipGrid(time=FRAMES // 2, rows=SIZE // PATCH, cols=SIZE // PATCH, tubelet=2)
COUNTS = {"train": 24, "val": 10, "test": 12}
LENGTH = 13  # frames of a video


class Records(list):
    """A split in memory, as pipeline and records read it: a bright disc whose size follows the beat.

    Frame 3 is ED and frame 8 ES, both with an expert's mask; frame 5 has one that is not an expert's. Two videos are
    of one patient. Each frame is 100 within the disc and 20 outside, or EF where it is `bright`; EF is in the corner
    of every frame.
    """

    def __init__(self, split, count=None, masks=True, bright=False, **fields):
        items, rng = [], np.random.default_rng(len(split))
        for row in range(COUNTS[split] if count is None else count):
            rows, cols = np.mgrid[:SIZE, :SIZE]
            centre, ef = rng.uniform(5, 11, 2), np.float32(rng.uniform(30, 70))
            radius = 4.5 - 1.5 * np.sin(np.pi * np.clip((np.arange(LENGTH) - 3) / 10, 0, 1))
            discs = np.hypot(rows - centre[0], cols - centre[1]) < radius[:, None, None]
            frames = np.where(discs, 100, 2 * ef if bright else 20).astype(np.uint8)
            frames[:, 0, :2] = ef + 100
            marked = [3, 5, 8] if masks else []
            known = {"ef": ef, "ed_frame": 3, "es_frame": 8, "pixel_spacing": [2.0, 2.0]} | fields
            masks_of = {"mask_frames": marked, "mask_is_expert": [frame != 5 for frame in marked]}
            record = records.make_record(
                frames,
                id=f"{split}{row}",
                patient_id=f"{split}-p{row // 2}",
                masks=discs[marked].astype(np.uint8),
                **masks_of,
                **known,
            )
            items.append(record | {"masks": discs[marked].astype(np.uint8)})  # as a RecordSource reads them
        super().__init__(items)
        self.frame_size, self.path, self.split, self._columns = SIZE, pathlib.Path("/nowhere"), split, {}


def make_config(**data):
    settings = {
        "dataset": "echonet_dynamic", "mixture": {}, "frame_size": SIZE, "image_size": SIZE, "num_frames": FRAMES,
        "stride": STRIDE, "target_fps": None, "workers": 0, "reads": 8, "crop_scales": (1.0,), "stride_jitter": 0.0,
        "abnormal_rule": None,
        "train_filter": "all",
    }  # fmt: skip
    evaluation = {"dataset": None, "clips": 2, "batch_size": 8, "resamples": 50, "evaluators": {}}
    return ConfigDict({"seed": 0, "batch_size": 4, "data": settings | data, "eval": evaluation})


def patches(frames):
    """[..., 16, 16] -> [..., 16 places, 16 pixels]."""
    cut = frames.reshape(*frames.shape[:-2], GRID.rows, PATCH, GRID.cols, PATCH)
    return np.swapaxes(cut, -3, -2).reshape(*frames.shape[:-2], GRID.num_positions, PATCH**2)


class Seeing:
    """Tokens are the pixels of the asked frame; of clips, mean and standard deviation of those of the first frame of
    each tubelet. Counts its calls."""

    def __init__(self):
        self.calls = 0

    def of_frame(self, frames, num_valid, position):
        self.calls += 1
        return patches(frames[np.arange(len(frames)), position]).astype(np.float32)

    def of_clip(self, frames, num_valid):
        self.calls += 1
        found = patches(frames[:, ::2]).astype(np.float32)
        return np.concatenate([np.zeros_like(found[:, 0, :1]), found.mean(1), found.std(1)], axis=1)


class Blind(Seeing):
    """Tokens are noise."""

    def __init__(self, seed):
        super().__init__()
        self.rng = np.random.default_rng(seed)

    def of_frame(self, frames, num_valid, position):
        return self.rng.normal(size=super().of_frame(frames, num_valid, position).shape)

    def of_clip(self, frames, num_valid):
        return self.rng.normal(size=super().of_clip(frames, num_valid).shape)


def encoder(eyes, key):
    return tokens.TokenEncoder(eyes.of_frame, eyes.of_clip, key, GRID, PATCH, PATCH**2)


def make_context(directory, config=None, sources=None, eyes=None, tuner=None):
    """An (evaluation, context) with the encoders "discovr", which sees, and "random", blind, of two seeds."""
    config = config or make_config()
    sources = sources or {split: Records(split) for split in feature_extraction.SPLITS}
    eyes = eyes or {"discovr": [Seeing()], "random": [Blind(1), Blind(2)]}
    encoders = {
        name: [encoder(one, f"{name} {seed}") for seed, one in enumerate(group)] for name, group in eyes.items()
    }
    fields = feature_extraction.read_fields(sources, config, "echonet_dynamic")
    evaluation = results_lib.start({name: [{}] * len(group) for name, group in encoders.items()}, fields, config)
    folder = pathlib.Path(directory)
    context = tokens.TokenContext(config, sources, fields, encoders, folder, feature_cache.ALONE, tuner)
    return evaluation, context


def shown(record):
    """The first clip of a record: uint8 [T, S, S]."""
    return records.decode_frames(record["frames"], SIZE, SIZE, range(0, FRAMES * STRIDE, STRIDE))
