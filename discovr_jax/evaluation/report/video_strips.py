"""Pictures of frames with something painted over them: prototypes of tokens, attention, outlines.

token's prototype -> its colour over its patch, the same in every frame and clip
attention -> the brighter the colour, the more weight
mask -> its outline
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image

from discovr_jax.evaluation.metrics import masks as mask_metrics
from discovr_jax.evaluation.report import plots

_COLOURS = 48  # of the most frequent prototypes; the others share grey
_OPACITY = 0.45
_SIDE = 168  # pixels of a painted frame
_TILE = 224  # likewise of a single one
EXPERT, FOUND = (255, 212, 59), (34, 211, 238)  # colours of outlines: yellow, cyan


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
    """WebP: a few frames across the clip, plain above and painted below."""
    chosen = np.unique(np.linspace(0, len(clip["frames"]) - 1, columns).round().astype(int))
    frames, maps = np.asarray(clip["frames"])[chosen], np.asarray(clip["assignments"])[chosen]
    above = np.concatenate([np.asarray(_enlarge(frame)) for frame in frames], axis=1)
    below = np.concatenate(list(paint(frames, maps, order)), axis=1)
    return _webp([np.concatenate([above, below])])


def animation(clip: Mapping[str, Any], order: np.ndarray, most_frames: int = 16) -> bytes:
    """WebP that plays again and again: the clip beside its painting, at most `most_frames` evenly chosen frames."""
    count = min(most_frames, len(clip["frames"]))
    chosen = np.linspace(0, len(clip["frames"]) - 1, count).round().astype(int)
    frames, maps = np.asarray(clip["frames"])[chosen], np.asarray(clip["assignments"])[chosen]
    painted = paint(frames, maps, order)
    plain = (np.asarray(_enlarge(frame)) for frame in frames)
    return _webp([np.concatenate(pair, axis=1) for pair in zip(plain, painted, strict=True)])


def _webp(pictures: Sequence[np.ndarray]) -> bytes:
    """Pictures, uint8 [H, W, 3], as one file; several play one after the other."""
    first, *others = [Image.fromarray(picture) for picture in pictures]
    file = io.BytesIO()
    first.save(file, "WEBP", quality=85, save_all=True, append_images=others, duration=110, loop=0)
    return file.getvalue()


def outlined(frame: np.ndarray, *maps: tuple[np.ndarray, tuple[int, int, int]]) -> bytes:
    """PNG of a frame with the outline of every class.

    Args:
      frame: uint8 [H, W], grey.
      *maps: (classes int [H, W], 0 is background; colour); later ones lie above.
    """
    picture = np.array(_enlarge(frame, _TILE))
    for classes, colour in maps:
        for one in np.unique(classes[classes > 0]):
            mask = Image.fromarray(np.uint8(255) * (classes == one)).resize((_TILE, _TILE), Image.Resampling.BICUBIC)
            mask = np.asarray(mask) > 127
            line = mask_metrics.outline(mask)
            # Two pixels wide, the second one inwards, so that an outline never leaves its mask.
            line |= mask_metrics.outline(mask & ~line)
            picture[line] = colour
    return tile(picture)


def attended(frame: np.ndarray, weights: np.ndarray, low: float, high: float) -> np.ndarray:
    """A frame that glows where attention lies: up to `low` it stays as it is, from `high` on the glow is full.

    Args:
      frame: uint8 [H, W], grey; weights: float [rows, cols], of its tokens.

    Returns:
      uint8 [side, side, 3].
    """
    share = Image.fromarray(np.clip((weights - low) / (high - low), 0, 1).astype(np.float32))
    share = np.clip(share.resize((_TILE, _TILE), Image.Resampling.BILINEAR), 0, 1)
    colour = 255 * colormaps["inferno"](0.25 + 0.75 * share)[..., :3]
    cover = 0.75 * share[..., None]
    return np.round((1 - cover) * np.asarray(_enlarge(frame, _TILE)) + cover * colour).astype(np.uint8)


def tile(picture: np.ndarray) -> bytes:
    """PNG of uint8 [H, W] or [H, W, 3] in 96 colours, which the eye does not tell from all and takes half the space."""
    image = Image.fromarray(picture).convert("RGB").quantize(96, dither=Image.Dither.NONE)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def plain(frame: np.ndarray) -> bytes:
    """PNG of a grey frame, uint8 [H, W]."""
    return tile(np.asarray(_enlarge(frame, _TILE)))


def _enlarge(frame: np.ndarray, side: int = _SIDE) -> Image.Image:
    grey = Image.fromarray(np.asarray(frame, np.uint8)).resize((side, side), Image.Resampling.BILINEAR)
    return grey.convert("RGB")
