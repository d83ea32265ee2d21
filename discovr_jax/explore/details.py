"""HTML of the panel beside the map. Whatever comes from files is escaped."""

import base64
import html
from typing import Any

import numpy as np

from discovr_jax.explore import clips as clips_lib
from discovr_jax.predictor import PHASES

STYLE = """
img { max-width: 100%; border-radius: 6px; }
h3 { margin: 2px 0 6px; font-size: 14px; overflow-wrap: anywhere; }
h3.next { margin-top: 10px; }
p { margin: 4px 0; }
.muted { color: #59636e; font-size: 12.5px; }
.pair { display: flex; gap: 6px; } .pair figure { margin: 0; flex: 1; min-width: 0; }
figcaption { color: #59636e; font-size: 12.5px; }
table { border-collapse: collapse; width: 100%; }
td { padding: 1px 6px 1px 0; vertical-align: top; overflow-wrap: anywhere; }
td:first-child { color: #59636e; white-space: nowrap; }
"""
HOW_TO = (
    "<h3>Click a point</h3><p class='muted'>Its clip plays here, with its outlines, predictions and most similar "
    "videos. Drag to move the map, turn the wheel to zoom. With box or lasso, on the right of the map, select points "
    "and save them as CSV.</p>"
)


def clip(one: clips_lib.Clip, said: Any = None, waits: bool = False) -> str:
    """A clip that plays, its outlined stills, and what the heads say of it.

    Args:
      said: `run_heads.Said`; None for what is known without them. waits: that will follow.
    """
    outlines, prototypes = (said.outlines, said.prototypes) if said else ((), None)
    which = clips_lib.played(len(one.frames), 0, said.stop or None if said else None)
    parts = [picture(clips_lib.animation(one, which, outlines, prototypes), "clip")]
    notes = []
    if outlines:
        notes.append("cyan: the predicted left ventricle")
    if prototypes is not None:
        notes.append("right: prototype of each patch, each in its colour in all clips")
    if waits:
        notes.append("the run's heads are computing its predictions and outlines")
    if notes:
        text = "; ".join(notes)
        parts.append(f"<p class='muted'>{text[0].upper()}{text[1:]}.</p>")
    parts += [f"<p>{html.escape(line)}</p>" for line in (said.words if said else ())]
    stills = clips_lib.stills(one, outlines)
    if stills:
        pictures = "".join(
            f"<figure>{picture(each, PHASES[phase])}<figcaption>{PHASES[phase]}, {one.by}</figcaption></figure>"
            for phase, each in stills.items()
        )
        parts.append(f"<div class='pair'>{pictures}</div>")
    return "".join(parts)


def facts(frame: Any, row: int) -> str:
    """What is known of a video, one line per column."""
    known = frame.iloc[row]
    lines = [
        f"<tr><td>{html.escape(str(name).replace('_', ' '))}</td><td>{html.escape(number(value))}</td></tr>"
        for name, value in known.drop("id").items()
        if number(value)
    ]
    return f"<h3>{html.escape(known['id'])}</h3><table>{''.join(lines)}</table><h3 class='next'>Most similar</h3>"


def number(value: Any) -> str:
    """A value in few letters; empty if it is unknown."""
    if isinstance(value, str):
        return value
    return "" if not np.isfinite(value) else f"{value:.4g}"


def drawing(count: int, shown: int) -> str:
    """That only some of the shown videos are drawn, and how to see all."""
    return note(
        f"Drawing {count:,} of {shown:,} points: zoom in or filter for the others. Box and lasso take undrawn ones too."
    )


def picture(data: bytes, name: str) -> str:
    """A WebP in the page itself: no address, so nothing that a browser keeps."""
    return f'<img alt="{name}" src="data:image/webp;base64,{base64.b64encode(data).decode()}">'


def note(text: str) -> str:
    """A remark in grey."""
    return f"<p class='muted'>{html.escape(text)}</p>"
