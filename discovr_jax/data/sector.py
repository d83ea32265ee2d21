"""Finds the ultrasound sector in a screen recording and leaves out all else: text, ECG trace, colour bars, rulers.

The sector is what moves: speckle and heart change from frame to frame, what the scanner writes around them hardly
does. It is the convex hull of the largest patch that changes, or is bright and joined to what changes.
"""

import dataclasses

import numpy as np

from discovr_jax.data.io.video import Video

# Distance from grey (0-255) of a coloured pixel: above the tints of grey maps, below traces, text and Doppler.
SATURATED = 80
# Frames looked at, evenly spaced: more would not show more of the sector.
_FRAMES = 64
# Standard deviation over time, in grey levels, from which a pixel counts as moving: at least, as a multiple of the
# noise of still pixels, and at most because of it.
_LEAST_CHANGE, _NOISE, _MOST_NOISE = 0.5, 3.0, 3.0
# Share of the frame below which a patch is no sector, and of its own hull: a sector is nearly convex.
_LEAST_AREA, _LEAST_SOLIDITY = 0.15, 0.6
# A crop that gains less than this in size is not made: resampling would cost more.
_LEAST_GAIN = 1.1
# Grey levels above the background that count as drawn, and the share of the frame that may be so by noise.
_DRAWN, _STRAY = 16, 0.0005
# Share of the sector, and of the frames, that colour Doppler fills at least.
_DOPPLER_AREA, _DOPPLER_FRAMES = 0.01, 0.1


@dataclasses.dataclass(frozen=True)
class Sector:
    """Where the ultrasound is.

    Attributes:
      mask: bool [H, W], True inside the sector; all True if a sector that fills the frame has nothing around it.
      box: top, left, bottom, right in pixels (the last two exclusive): what a crop keeps.
      found: False if nothing like a sector was seen; mask and box are then the whole frame.
    """

    mask: np.ndarray
    box: tuple[int, int, int, int]
    found: bool


def find_sector(frames: np.ndarray, colour: np.ndarray | None = None) -> Sector:
    """The sector of a video.

    A clip that it fills, with nothing drawn around it (EchoNet's, for one), is to be left as it is: mask and box
    are whole.

    Args:
      frames: uint8 [T, H, W], grey.
      colour: uint8 [T, H, W], distance from grey (`Video.colour`): saturated pixels (traces, text) never widen the
        sector. None if the source is grey.
    """
    import cv2

    height, width = frames.shape[1:]
    mean, std, brightest = _statistics(frames)
    whole = Sector(np.ones((height, width), bool), (0, 0, height, width), False)
    floor, strong = np.percentile(std, (10, 95))
    # Still pixels of a digital recording do not change at all; those of an analogue one do a little.
    moves = std >= max(_LEAST_CHANGE, 0.02 * strong, min(_NOISE * floor, _MOST_NOISE))
    if not moves.any():
        return whole
    background = np.median(mean[~moves]) if not moves.all() else 0.0
    patch = moves | (mean >= background + _DRAWN)
    if colour is not None:
        patch &= ~(colour[_spread(len(colour))] >= SATURATED).any(0)
    hull, solidity = _hull(patch, std)
    if hull.mean() < _LEAST_AREA or solidity < _LEAST_SOLIDITY:
        return whole
    top, left, bottom, right = _bounds(hull)
    if max(height, width) >= _LEAST_GAIN * max(bottom - top, right - left):
        return Sector(hull, (top, left, bottom, right), True)
    overlay = ((brightest >= background + _DRAWN) & ~hull).astype(np.uint8)
    nothing = np.count_nonzero(cv2.morphologyEx(overlay, cv2.MORPH_CLOSE, np.ones((3, 3)))) <= _STRAY * overlay.size
    return dataclasses.replace(whole, mask=whole.mask if nothing else hull, found=True)


def isolate(frames: np.ndarray, sector: Sector) -> np.ndarray:
    """Frames uint8 [T, H, W] with black outside the sector, cut to its box: uint8 [T, h, w]."""
    top, left, bottom, right = sector.box
    mask = sector.mask[top:bottom, left:right]
    frames = frames[:, top:bottom, left:right]
    return frames if mask.all() else frames * mask


def isolate_video(video: Video) -> tuple[Video, set[str]]:
    """The video and the flags of `isolate_at`."""
    isolated, flags, _ = isolate_at(video)
    return isolated, flags


def isolate_at(video: Video) -> tuple[Video, set[str], tuple[int, int]]:
    """A video as records and encoders see it: the sector alone.

    Where the file says which region of the screen is the picture, only that is searched.

    Returns:
      The video (its spacing holds on), and its flags with those out of `sector_not_found` (kept as it is),
      `sector_isolated` (something was cut off or blackened), `colour_doppler`; and where its first pixel lies in the
      frames of the file (row, column).
    """
    frames, colour, top, left = video.frames, video.colour, 0, 0
    if video.region is not None:
        top, left, bottom, right = video.region
        frames = frames[:, top:bottom, left:right]
        colour = colour if colour is None else colour[:, top:bottom, left:right]
    sector = find_sector(frames, colour)
    flags = set(video.flags) | (set() if sector.found else {"sector_not_found"})
    if colour is not None and shows_doppler(colour, sector):
        flags.add("colour_doppler")
    isolated = isolate(frames, sector)
    if isolated.shape != video.frames.shape or not sector.mask.all():
        flags.add("sector_isolated")
    corner = top + sector.box[0], left + sector.box[1]
    return dataclasses.replace(video, frames=isolated, colour=None, region=None), flags, corner


def shows_doppler(colour: np.ndarray, sector: Sector) -> bool:
    """Whether colour fills areas of the sector (lines, as of an ECG, do not count).

    Args:
      colour: uint8 [T, H, W], distance from grey.
      sector: of the same video.
    """
    import cv2

    mask, disc = sector.mask, _disc(min(sector.mask.shape) // 50)
    shares = []
    for frame in colour[_spread(len(colour))]:
        areas = cv2.morphologyEx((frame >= SATURATED).astype(np.uint8), cv2.MORPH_OPEN, disc)
        shares.append(np.count_nonzero(areas[mask]) / max(1, np.count_nonzero(mask)))
    return bool(np.mean(np.array(shares) >= _DOPPLER_AREA) >= _DOPPLER_FRAMES)


def _statistics(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, standard deviation and maximum over time, [H, W] each; frame by frame, for videos of a whole screen."""
    chosen = frames[_spread(len(frames))]
    total = np.zeros(frames.shape[1:], np.int64)
    squares = np.zeros(frames.shape[1:], np.int64)
    for frame in chosen:
        wide = frame.astype(np.int32)
        total += wide
        squares += wide * wide
    mean = total / len(chosen)
    return mean, np.sqrt(np.maximum(squares / len(chosen) - mean**2, 0)), chosen.max(0)


def _hull(patch: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, float]:
    """Convex hull, bool [H, W], of the connected part of `patch` with most weight, and how much of it that fills."""
    import cv2

    radius = max(1, min(patch.shape) // 100)
    closed = cv2.morphologyEx(patch.astype(np.uint8), cv2.MORPH_CLOSE, _disc(radius))
    # Strokes of text, ticks and traces are thinner than this disc.
    opened = cv2.morphologyEx(closed, cv2.MORPH_OPEN, _disc(2 * radius + 1))
    count, labels = cv2.connectedComponents(opened)
    hull = np.zeros(patch.shape, np.uint8)
    if count == 1:
        return hull.astype(bool), 0.0
    weights = np.bincount(labels.ravel(), weight.ravel())
    part = (labels == 1 + np.argmax(weights[1:])).astype(np.uint8)
    # That disc rounded the sector's tip and corners off: what it took there is given back.
    part |= cv2.morphologyEx(closed, cv2.MORPH_OPEN, _disc(radius)) & cv2.dilate(part, _disc(2 * radius + 1))
    outlines, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.fillConvexPoly(hull, cv2.convexHull(np.concatenate(outlines)), 1)
    filled = cv2.drawContours(np.zeros_like(hull), outlines, -1, 1, cv2.FILLED)
    return hull.astype(bool), float(filled.sum() / hull.sum())


def _bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, bottom and right (the last two exclusive) of the True part."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _disc(radius: int) -> np.ndarray:
    import cv2

    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def _spread(count: int) -> np.ndarray:
    """At most `_FRAMES` indices, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, _FRAMES)).round().astype(int))
