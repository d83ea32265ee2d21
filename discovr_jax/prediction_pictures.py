"""A picture of a prediction: outlines over the frames at end-diastole and end-systole, numbers, and the notice."""

import io
import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from discovr_jax.evaluation import interface
from discovr_jax.evaluation.metrics import masks as mask_metrics
from discovr_jax.evaluation.report.video_strips import FOUND
from discovr_jax.predictor import PHASES, Measurement, Prediction

_SIDE = 336  # pixels of the longer side of a frame
_LINE, _TEXT = 18, 13  # height of a line of the caption, and of its letters
_COLUMNS = 88  # letters of a line


def picture(frames: np.ndarray, prediction: Prediction) -> bytes:
    """PNG of a prediction: both outlined frames side by side; the first and the middle frame where there are none.

    Args:
      frames: uint8 [T, H, W], those that were predicted from.
    """
    panels = [(PHASES[phase], one.frame, one.mask) for phase, one in prediction.outlines.items()]
    panels = panels or [("no outline", frame, None) for frame in (0, len(frames) // 2)]
    tiles = [outlined(frames[frame], *(() if mask is None else ((mask, FOUND),))) for _, frame, mask in panels]
    names = "   |   ".join(f"{name}, frame {frame}" for name, frame, _ in panels)
    lines = [line for text in (names, *words(prediction), prediction.notice) for line in _wrapped(text)]
    height, width = tiles[0].shape[:2]
    canvas = Image.new("RGB", (max(2 * width, 2 * _SIDE), height + _LINE * len(lines) + 8))
    for column, tile in enumerate(tiles):
        canvas.paste(Image.fromarray(tile), (column * width, 0))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(_TEXT)
    for number, line in enumerate(lines):
        draw.text((6, height + 4 + _LINE * number), line, (255, 255, 255), font)
    file = io.BytesIO()
    canvas.save(file, "PNG", optimize=True)
    return file.getvalue()


def words(prediction: Prediction) -> list[str]:
    """A prediction in lines of text."""
    if prediction.reasons:
        lines = [f"Out of distribution: {'; '.join(prediction.reasons)}"]
        numbers = [prediction.probability_abnormal, *(one.value for one in prediction.measurements.values())]
        if np.isnan(numbers).all():
            return [*lines, "Numbers are withheld."]
    else:
        lines = []
    lines += [measured(one) for one in prediction.measurements.values()]
    if np.isfinite(prediction.probability_abnormal):
        lines.append(f"probability of abnormal {prediction.probability_abnormal:.2f}")
    return lines


def measured(one: Measurement) -> str:
    """A measurement with its interval, in words."""
    name = interface.MEASUREMENTS[one.field][0]
    return f"{name} {one.value:.3g} {one.unit} (90 % interval {one.low:.3g} to {one.high:.3g})"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _COLUMNS) or [""]


def outlined(frame: np.ndarray, *masks: tuple[np.ndarray, tuple[int, int, int]], side: int = _SIDE) -> np.ndarray:
    """A frame uint8 [H, W] enlarged or shrunk, with outlines two pixels wide: uint8 [h, w, 3].

    Args:
      *masks: (bool [H, W], colour); later ones lie above.
      side: pixels of the longer side.
    """
    scale = side / max(frame.shape)
    size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
    grey = np.array(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR).convert("RGB"))
    for mask, colour in masks:
        large = np.asarray(Image.fromarray(np.uint8(255) * mask).resize(size, Image.Resampling.BILINEAR)) > 127
        line = mask_metrics.outline(large)
        grey[line | mask_metrics.outline(large & ~line)] = colour
    return grey
