"""A picture of what the model will see: frames as they came and as they are stored, with their masks."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

_TILE = 224  # pixels
_CAPTION = 30
_GAP = 6
_BACKGROUND = 48  # grey, so that black frames stand out
# BGR outlines of the mask classes 1, 2, 3.
COLOURS = {1: (0, 255, 255), 2: (0, 255, 0), 3: (255, 128, 0)}


@dataclasses.dataclass(frozen=True)
class Pair:
    """One frame before and after preprocessing.

    Attributes:
      before: uint8 [H, W] as read from the file, or None where it is not to be had or not to be shown.
      after: uint8 [S, S] as stored.
      mask: uint8 [S, S] of mask classes, or None.
      caption: two lines.
    """

    before: np.ndarray | None
    after: np.ndarray
    mask: np.ndarray | None
    caption: tuple[str, str]


def choose(record: dict, rng: np.random.Generator) -> int:
    """The frame of a record to show: a random one, out of those with a mask if there are any."""
    frames = record["mask_frames"] if len(record["mask_frames"]) else np.arange(record["num_frames"])
    return int(rng.choice(frames))


def pair(record: dict, frame: int, after: np.ndarray, before: np.ndarray | None, split: str) -> Pair:
    """Puts together what is shown of frame number `frame` of a record, whose stored picture is `after`."""
    masks = record["masks"][record["mask_frames"] == frame]
    moment = {record["ed_frame"]: " ED", record["es_frame"]: " ES"}.get(frame, "")
    sizes = [f"{picture.shape[0]} x {picture.shape[1]}" for picture in (before, after) if picture is not None]
    labels = [f"{name.upper()} {record[name]:.0f} %" for name in ("ef", "rvef") if not np.isnan(record[name])]
    what = " ".join([split, record["view"] or "view unknown", *(labels or ["EF unknown"])])
    caption = (f"{what}, frame {frame}{moment}", f"{record['id']}  {' -> '.join(sizes)}")
    return Pair(before, after, masks[0] if len(masks) else None, caption)


def write(file: pathlib.Path, pairs: Sequence[Pair], *, columns: int = 4) -> None:
    """Writes the pairs as a PNG: before on the left, after with outlines on the right, the caption below.

    Where no pair has a frame from before, the frames stored are shown alone.
    """
    import cv2

    both = any(item.before is not None for item in pairs)
    cells = [_cell(item, both) for item in pairs]
    cells += [np.full_like(cells[0], _BACKGROUND)] * (-len(cells) % columns)
    rows = [np.concatenate(cells[start : start + columns], 1) for start in range(0, len(cells), columns)]
    file.write_bytes(cv2.imencode(".png", np.concatenate(rows))[1].tobytes())


def _cell(item: Pair, both: bool) -> np.ndarray:
    import cv2

    tiles = [_tile(item.after, item.mask)]
    if both:
        tiles.insert(0, np.zeros_like(tiles[0]) if item.before is None else _tile(item.before, None))
    cell = np.concatenate(tiles, 1)
    cell = np.pad(cell, ((_GAP, _CAPTION), (0, _GAP), (0, 0)), constant_values=_BACKGROUND)
    for line, text in enumerate(item.caption):
        place = (2, _GAP + _TILE + 12 + 13 * line)
        scale = 0.38
        while cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0] > cell.shape[1] - 4:
            scale *= 0.9
        cv2.putText(cell, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)
    return cell


def _tile(grey: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """A picture scaled to fit a tile, in the middle, its outlines drawn; BGR [_TILE, _TILE, 3]."""
    import cv2

    scale = _TILE / max(grey.shape)
    size = tuple(max(1, round(side * scale)) for side in grey.shape[::-1])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    picture = cv2.cvtColor(cv2.resize(grey, size, interpolation=how), cv2.COLOR_GRAY2BGR)
    for value, colour in COLOURS.items() if mask is not None else ():
        area = cv2.resize((mask == value).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(area, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, colour, 1)
    tile = np.zeros((_TILE, _TILE, 3), np.uint8)
    top, left = (_TILE - size[1]) // 2, (_TILE - size[0]) // 2
    tile[top : top + size[1], left : left + size[0]] = picture
    return tile
