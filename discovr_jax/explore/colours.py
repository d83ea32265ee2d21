"""Colours of points by one column, and their legend."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

UNKNOWN = "#b6bdc6"
# Okabe and Ito (2008), told apart by colour-blind readers too, then further ones for many categories.
CATEGORIES = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5d3a9b", "#8c564b", "#1a7f37", "#a40e26",
    "#6e7781", "#b58900", "#003f5c", "#ff7f7f", "#7a9a01", "#9c6ade", "#00818a", "#c2410c", "#4b5563", "#d946ef",
)  # fmt: skip
_STEPS = 256
_TAILS = (2, 98)  # percentiles that the scale spans: one odd value does not make all others look alike


def by_text(values: Sequence[str]) -> tuple[np.ndarray, str]:
    """A colour per value, grey for the empty one.

    Returns:
      uint32 [N], 0xRRGGBBAA; the legend as HTML.
    """
    names, index, counts = np.unique(np.asarray(values, str), return_inverse=True, return_counts=True)
    wanted = iter(CATEGORIES)
    palette = [next(wanted) if name else UNKNOWN for name in names]
    legend = [_swatch(colour, name, count) for name, colour, count in zip(names, palette, counts, strict=True)]
    return _numbers(palette)[index], " ".join(legend)


def by_number(values: np.ndarray, name: str) -> tuple[np.ndarray, str]:
    """A scale from the 2nd to the 98th percentile, of errors from blue by grey to red; unknown values are grey.

    Args:
      values: float [N], NaN unknown; name: of the column.

    Returns:
      As of `by_text`.
    """
    from bokeh.palettes import Viridis256, interp_palette

    known = np.isfinite(values)
    low, high = np.percentile(values[known], _TAILS) if known.any() else (0.0, 1.0)
    palette = list(Viridis256)
    if name.endswith("_error"):
        palette = list(interp_palette(["#2166ac", "#c9c9c9", "#b2182b"], _STEPS))
        high = max(abs(low), abs(high))
        low = -high
    share = np.clip((np.where(known, values, low) - low) / ((high - low) or 1.0), 0, 1)
    index = np.where(known, np.round(share * (_STEPS - 1)), _STEPS).astype(int)
    bar = f"linear-gradient(90deg,{','.join(palette[::15])})"
    legend = (
        f'{low:.3g} <i style="display:inline-block;width:110px;height:11px;border-radius:3px;background:{bar}"></i> '
        f"{high:.3g}"
    )
    if not known.all():
        legend += f" {_swatch(UNKNOWN, '', int((~known).sum()))}"
    return _numbers([*palette, UNKNOWN])[index], legend


def _swatch(colour: str, name: Any, count: int) -> str:
    dot = f'<i style="display:inline-block;width:11px;height:11px;border-radius:50%;background:{colour}"></i>'
    return f'<span style="white-space:nowrap;margin-right:10px">{dot} {html.escape(name or "unknown")} ({count})</span>'


def _numbers(palette: Sequence[str]) -> np.ndarray:
    return np.array([int(f"{colour[1:]}ff", 16) for colour in palette], np.uint32)
