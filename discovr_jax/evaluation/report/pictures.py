"""The report's sections of pictures: outlines, attention, prototypes over the beat, similar videos."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from discovr_jax.evaluation import interface
from discovr_jax.evaluation.metrics import masks as mask_metrics
from discovr_jax.evaluation.report import html, plots, video_strips

_TIMES = 4  # frames of a clip with its attention
_GLOW = 2  # times an even share, the least that glows in full: nearly even attention stays dark


def overlay_section(overlays: Sequence[Mapping[str, Any]]) -> str:
    """Outlines by the expert and from every encoder's tokens; `overlays` as of `segmentation.run`."""
    title = "Outlines at end-diastole (ED) and end-systole (ES)"
    if not overlays:
        return html.section(
            title, html.absent("nothing was segmented (no expert outlines in this dataset, or not asked)")
        )
    note = (
        "Yellow: the expert. Cyan: drawn from frozen features. Dice: overlap of both, 1 is best. 'mean_mask' is the "
        "average expert outline, which sees no picture. Test videos spread evenly over the split, not chosen by result."
    )
    parts = []
    for name, pictures in itertools.groupby(overlays, key=lambda picture: picture["title"]):
        parts.append(html.heading(f"Video {name}"))
        for each in pictures:
            frame, truth = each["frame"], each["truth"]
            tiles = [
                (video_strips.plain(frame), (each["phase"], "the frame")),
                (video_strips.outlined(frame, (truth, video_strips.EXPERT)), (each["phase"], "expert")),
            ]
            for (head, encoder), result in each["predictions"].items():
                drawn = video_strips.outlined(frame, (truth, video_strips.EXPERT), (result, video_strips.FOUND))
                by = encoder if head == "none" else f"{encoder}, {head}"
                tiles.append((drawn, (each["phase"], by, f"Dice {_dice(truth, result):.2f}")))
            parts.append(html.tiles(tiles))
    return html.section(title, html.text(note), *parts)


def _dice(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over the classes of the expert."""
    classes = np.unique(truth[truth > 0])
    return float(np.mean([mask_metrics.dice((truth == one)[None], (predicted == one)[None])[0] for one in classes]))


def attention_section(clips: Sequence[Mapping[str, Any]]) -> str:
    """What CLS attends to; `clips` with "title", "frames" uint8 [t, H, W], "attention" [heads, t, rows, cols]."""
    title = "Where the network looks"
    if not clips:
        return html.section(title, html.absent("no attention maps were made"))
    note = (
        "Attention of the CLS token of the video teacher in its last block: the brighter, the more a position "
        "counts for the features of the clip; no colour means an even share or less. First the mean of all heads at "
        "moments of the clip, then each head averaged over the clip. Bright fixed corners or borders would mean that "
        "it looks past the heart."
    )
    parts = [html.text(note)]
    for clip in clips:
        frames, weights = np.asarray(clip["frames"]), np.asarray(clip["attention"], np.float64)
        mean, even = weights.mean(0), 1 / (1 + weights[0].size)
        times = np.unique(np.linspace(0, len(frames) - 1, _TIMES).round().astype(int))
        tiles = [(video_strips.plain(frames[0]), (f"moment 1/{len(frames)}", "the frame"))]
        for time in times:
            picture = video_strips.attended(frames[time], mean[time], even, max(mean.max(), _GLOW * even))
            tiles.append((video_strips.tile(picture), (f"moment {time + 1}/{len(frames)}", "all heads")))
        heads = []
        for head, each in enumerate(weights.mean(1)):
            picture = video_strips.attended(frames[0], each, even, max(each.max(), _GLOW * even))
            heads.append((video_strips.tile(picture), (f"head {head + 1}", f"at most {each.max() / even:.1f} x even")))
        parts += [
            html.heading(f"Video {clip['title']}"),
            html.text(f"Brightest position, mean of all heads: {mean.max() / even:.1f} times an even share.", "muted"),
            html.tiles(tiles),
            html.tiles(heads),
        ]
    return html.section(title, *parts)


def prototype_section(clips: Sequence[Mapping[str, Any]], usage: Mapping[str, np.ndarray] | None) -> str:
    """Prototypes of the tokens; `clips` with "title", "frames" uint8 [t, H, W], "assignments" int [t, gh, gw].

    Args:
      usage: {"assigned", "nearest": int [prototypes]}, tokens of each, or None.
    """
    title = "What the prototypes mark"
    clips = [clip for clip in clips if "assignments" in clip]
    if not clips:
        return html.section(title, html.absent("no prototype maps were made (semantic clusters off, or not asked)"))
    order = video_strips.ranks([clip["assignments"] for clip in clips])
    shown = [
        html.figure(
            f"Video {clip['title']}",
            "",
            (video_strips.strip(clip, order), "webp"),
            (video_strips.animation(clip, order), "webp"),
        )
        for clip in clips
    ]
    note = (
        "Each square is one token, coloured by the prototype it is assigned to; a colour is the same "
        "prototype in every clip (grey: rare ones). Useful prototypes follow tissue as it moves; a fixed "
        f"mosaic that ignores the picture is a position code. {len(order)} prototypes occur in these clips."
    )
    parts = [html.text(note), html.grid(shown, "wide")]
    if usage:
        names = {"assigned": "balanced, as in training", "nearest": "most similar"}
        effective = ", ".join(f"{_effective(usage[name]):.0f} ({label})" for name, label in names.items())
        caption = (
            f"Effective number of prototypes: {effective}, of {len(usage['assigned'])}. A steep fall means that a few "
            "prototypes take all tokens."
        )
        image = plots.usage({label: usage[name] for name, label in names.items()})
        parts.append(html.grid([html.figure("Prototypes' usage", caption, (image, "png"))]))
    return html.section(title, *parts)


def _effective(counts: np.ndarray) -> float:
    """exp of the entropy of the shares: the number of prototypes if all were used alike."""
    share = counts[counts > 0] / counts.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def neighbours_section(neighbours: Sequence[Mapping[str, Any]]) -> str:
    """Test videos beside the training videos most similar to them; as of `samples.neighbours`."""
    title = "Most similar videos"
    if not neighbours:
        return html.section(title, html.absent("retrieval was not evaluated"))
    note = (
        "Left, framed in blue: a test video. Beside it the training videos with the most similar features, the nearest "
        "first. Good features bring the same diagnosis and a near measurement, not only a similar picture."
    )
    parts = []
    for each in neighbours:
        tiles = [(video_strips.plain(each["query"]["frame"]), ("test video", *_known(each["query"], each["field"])))]
        for video in each["neighbours"]:
            lines = (f"similarity {video['similarity']:.3f}", *_known(video, each["field"]))
            tiles.append((video_strips.plain(video["frame"]), lines))
        parts.append(html.tiles(tiles, "query"))
    phases = {video["is_ed"] for each in neighbours for video in (each["query"], *each["neighbours"])}
    shown = {(True,): "end-diastole", (False,): "the first frame"}.get((*phases,), "end-diastole, or the first frame")
    return html.section(title, html.text(note), html.text(f"Shown: {shown}.", "muted"), *parts)


def _known(video: Mapping[str, Any], field: str) -> list[str]:
    """What is known of a video, a line each."""
    name, unit, _ = interface.MEASUREMENTS[field]
    label = {0: "normal", 1: "abnormal"}.get(video["label"])
    measured = video["measured"]
    known = [f"{name} {measured:.{0 if unit == '%' else 1}f} {unit}"] if np.isfinite(measured) else []
    return [*known, *([label] if label else []), video["id"]]
