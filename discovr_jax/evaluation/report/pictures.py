"""The report's sections of pictures: outlines, attention, prototypes over the beat, similar videos."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from discovr_jax.evaluation import interface as task
from discovr_jax.evaluation.metrics import masks as overlap
from discovr_jax.evaluation.report import html as page
from discovr_jax.evaluation.report import plots
from discovr_jax.evaluation.report import video_strips as paint

_TIMES = 4  # frames of a clip with its attention
_GLOW = 2  # times an even share, the least that glows in full: nearly even attention stays dark


def overlay_section(overlays: Sequence[Mapping[str, Any]]) -> str:
    """Outlines by the expert and from every encoder's tokens; `overlays` as of `segmentation.run`."""
    title = "Outlines at end-diastole (ED) and end-systole (ES)"
    if not overlays:
        return page.section(
            title, page.absent("nothing was segmented (no expert outlines in this dataset, or not asked)")
        )
    note = (
        "Yellow: the expert. Cyan: drawn from frozen features. Dice: overlap of both, 1 is best. 'mean_mask' is the "
        "average expert outline, which sees no picture. Test videos spread evenly over the split, not chosen by result."
    )
    parts = []
    for name, pictures in itertools.groupby(overlays, key=lambda picture: picture["title"]):
        parts.append(page.heading(f"Video {name}"))
        for each in pictures:
            frame, truth = each["frame"], each["truth"]
            tiles = [
                (paint.plain(frame), (each["phase"], "the frame")),
                (paint.outlined(frame, (truth, paint.EXPERT)), (each["phase"], "expert")),
            ]
            for (head, encoder), found in each["predictions"].items():
                drawn = paint.outlined(frame, (truth, paint.EXPERT), (found, paint.FOUND))
                by = encoder if head == "none" else f"{encoder}, {head}"
                tiles.append((drawn, (each["phase"], by, f"Dice {_dice(truth, found):.2f}")))
            parts.append(page.tiles(tiles))
    return page.section(title, page.text(note), *parts)


def _dice(truth: np.ndarray, found: np.ndarray) -> float:
    """Mean over the classes of the expert."""
    classes = np.unique(truth[truth > 0])
    return float(np.mean([overlap.dice((truth == one)[None], (found == one)[None])[0] for one in classes]))


def attention_section(clips: Sequence[Mapping[str, Any]]) -> str:
    """What CLS attends to; `clips` with "title", "frames" uint8 [t, H, W], "attention" [heads, t, rows, cols]."""
    title = "Where the network looks"
    if not clips:
        return page.section(title, page.absent("no attention maps were made"))
    note = (
        "Attention of the summary (CLS) token of the video teacher in its last block: the brighter, the more a place "
        "counts for the features of the clip; no colour means an even share or less. First the mean of all heads at "
        "moments of the clip, then each head averaged over the clip. Bright fixed corners or borders would mean that "
        "it looks past the heart."
    )
    parts = [page.text(note)]
    for clip in clips:
        frames, weights = np.asarray(clip["frames"]), np.asarray(clip["attention"], np.float64)
        mean, even = weights.mean(0), 1 / (1 + weights[0].size)
        moments = np.unique(np.linspace(0, len(frames) - 1, _TIMES).round().astype(int))
        tiles = [(paint.plain(frames[0]), (f"moment 1/{len(frames)}", "the frame"))]
        for moment in moments:
            picture = paint.attended(frames[moment], mean[moment], even, max(mean.max(), _GLOW * even))
            tiles.append((paint.tile(picture), (f"moment {moment + 1}/{len(frames)}", "all heads")))
        heads = []
        for head, each in enumerate(weights.mean(1)):
            picture = paint.attended(frames[0], each, even, max(each.max(), _GLOW * even))
            heads.append((paint.tile(picture), (f"head {head + 1}", f"at most {each.max() / even:.1f} x even")))
        parts += [
            page.heading(f"Video {clip['title']}"),
            page.text(f"Brightest place of all heads: {mean.max() / even:.1f} times an even share.", "muted"),
            page.tiles(tiles),
            page.tiles(heads),
        ]
    return page.section(title, *parts)


def prototype_section(clips: Sequence[Mapping[str, Any]], usage: Mapping[str, np.ndarray] | None) -> str:
    """Prototypes of the tokens; `clips` with "title", "frames" uint8 [t, H, W], "assignments" int [t, gh, gw].

    Args:
      usage: {"assigned", "nearest": int [prototypes]}, tokens of each, or None.
    """
    title = "What the prototypes mark"
    clips = [clip for clip in clips if "assignments" in clip]
    if not clips:
        return page.section(title, page.absent("no prototype maps were made (semantic clusters off, or not asked)"))
    order = paint.ranks([clip["assignments"] for clip in clips])
    shown = [
        page.figure(
            f"Video {clip['title']}", "", (paint.strip(clip, order), "webp"), (paint.animation(clip, order), "webp")
        )
        for clip in clips
    ]
    note = (
        "Each square is one token, coloured by the prototype it is assigned to; a colour is the same "
        "prototype in every clip (grey: rare ones). Useful prototypes follow tissue as it moves; a fixed "
        f"mosaic that ignores the picture is a position code. {len(order)} prototypes occur in these clips."
    )
    parts = [page.text(note), page.grid(shown, "wide")]
    if usage:
        names = {"assigned": "balanced, as in training", "nearest": "most similar"}
        effective = ", ".join(f"{_effective(usage[name]):.0f} ({label})" for name, label in names.items())
        caption = (
            f"Effective number of prototypes: {effective}, of {len(usage['assigned'])}. A steep fall means that a few "
            "prototypes take all tokens."
        )
        image = plots.usage({label: usage[name] for name, label in names.items()})
        parts.append(page.grid([page.figure("Prototypes' usage", caption, (image, "png"))]))
    return page.section(title, *parts)


def _effective(counts: np.ndarray) -> float:
    """exp of the entropy of the shares: the number of prototypes if all were used alike."""
    share = counts[counts > 0] / counts.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def neighbours_section(neighbours: Sequence[Mapping[str, Any]]) -> str:
    """Test videos beside the training videos most similar to them; as of `samples.neighbours`."""
    title = "Most similar videos"
    if not neighbours:
        return page.section(title, page.absent("retrieval was not evaluated"))
    note = (
        "Left, framed in blue: a test video. Beside it the training videos with the most similar features, the nearest "
        "first. Good features bring the same diagnosis and a near measurement, not only a similar picture."
    )
    parts = []
    for each in neighbours:
        tiles = [(paint.plain(each["query"]["frame"]), ("test video", *_known(each["query"], each["field"])))]
        for video in each["neighbours"]:
            lines = (f"similarity {video['similarity']:.3f}", *_known(video, each["field"]))
            tiles.append((paint.plain(video["frame"]), lines))
        parts.append(page.tiles(tiles, "query"))
    phases = {video["is_ed"] for each in neighbours for video in (each["query"], *each["neighbours"])}
    shown = {(True,): "end-diastole", (False,): "the first frame"}.get((*phases,), "end-diastole, or the first frame")
    return page.section(title, page.text(note), page.text(f"Shown: {shown}.", "muted"), *parts)


def _known(video: Mapping[str, Any], field: str) -> list[str]:
    """What is known of a video, a line each."""
    name, unit, _ = task.MEASUREMENTS[field]
    label = {0: "normal", 1: "abnormal"}.get(video["label"])
    measured = video["measured"]
    known = [f"{name} {measured:.{0 if unit == '%' else 1}f} {unit}"] if np.isfinite(measured) else []
    return [*known, *([label] if label else []), video["id"]]
