"""Prototype maps: the prototype each token is assigned to, painted over the frames of a clip."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from discovr_jax.evaluation import plots

_COLOURS = 24  # of the most frequent prototypes; the others share grey
_OPACITY = 0.45
_SIDE = 168  # pixels of a painted frame


def ranks(maps: Sequence[np.ndarray]) -> np.ndarray:
    """Prototype ids of all maps (int arrays) by falling frequency, ties by id: int [number of ids in use]."""
    ids, counts = np.unique(np.concatenate([np.ravel(one) for one in maps]), return_counts=True)
    return ids[np.argsort(-counts, kind="stable")]


def paint(frames: np.ndarray, assignments: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Blends each token's colour over its patch.

    Args:
      frames: uint8 [t, H, W], grey; assignments: int [t, gh, gw], prototype of each token.
      order: of `ranks`; makes one prototype the same colour in every clip.

    Returns:
      uint8 [t, side, side, 3].

    Raises:
      ValueError: frames and assignments of different length.
    """
    if len(frames) != len(assignments):
        raise ValueError(f"{len(frames)} frames and {len(assignments)} maps of prototypes: one map a frame")
    palette = plots.prototype_palette(min(_COLOURS, len(order)))
    rank = {int(prototype): index for index, prototype in enumerate(order[: len(palette) - 1])}
    grey = len(palette) - 1
    painted = []
    for frame, tokens in zip(frames, assignments, strict=True):
        colour = palette[[[rank.get(int(token), grey) for token in row] for row in tokens]]
        colour = Image.fromarray(colour).resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
        grey_frame = _enlarge(frame)
        painted.append(np.asarray(Image.blend(grey_frame, colour, _OPACITY)))
    return np.stack(painted)


def strip(clip: Mapping[str, Any], order: np.ndarray, columns: int = 6) -> bytes:
    """PNG: a few frames across the clip, plain above and painted below."""
    chosen = np.unique(np.linspace(0, len(clip["frames"]) - 1, columns).round().astype(int))
    frames, maps = np.asarray(clip["frames"])[chosen], np.asarray(clip["assignments"])[chosen]
    above = np.concatenate([np.asarray(_enlarge(frame)) for frame in frames], axis=1)
    below = np.concatenate(list(paint(frames, maps, order)), axis=1)
    file = io.BytesIO()
    Image.fromarray(np.concatenate([above, below])).save(file, "PNG", optimize=True)
    return file.getvalue()


def animation(clip: Mapping[str, Any], order: np.ndarray, most_frames: int = 16) -> bytes:
    """GIF that repeats: the clip beside its painting, at most `most_frames` evenly chosen frames."""
    count = min(most_frames, len(clip["frames"]))
    chosen = np.linspace(0, len(clip["frames"]) - 1, count).round().astype(int)
    frames, maps = np.asarray(clip["frames"])[chosen], np.asarray(clip["assignments"])[chosen]
    pairs = [
        Image.fromarray(np.concatenate([np.asarray(_enlarge(frame)), painted], axis=1))
        for frame, painted in zip(frames, paint(frames, maps, order), strict=True)
    ]
    # One palette for all frames: a palette a frame makes still regions flicker.
    shared = Image.fromarray(np.concatenate([np.asarray(pair) for pair in pairs])).quantize(128)
    pairs = [pair.quantize(palette=shared, dither=Image.Dither.NONE) for pair in pairs]
    file = io.BytesIO()
    pairs[0].save(file, "GIF", save_all=True, append_images=pairs[1:], duration=110, loop=0)
    return file.getvalue()


def _enlarge(frame: np.ndarray) -> Image.Image:
    grey = Image.fromarray(np.asarray(frame, np.uint8)).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    return grey.convert("RGB")
