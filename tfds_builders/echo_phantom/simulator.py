"""Simulates an apical four-chamber clip with known volumes, masks and ejection fraction."""

import dataclasses

import cv2
import numpy as np

from tfds_builders.echo_phantom import cycle, measure, painting, rhythm, speckle
from tfds_builders.echo_phantom.anatomy import Heart
from tfds_builders.echo_phantom.parameters import HeartParameters, draw_heart
from tfds_builders.echo_phantom.scanner import SIZE, Scanner

__all__ = ["SIZE", "Clip", "draw_heart", "simulate"]


_INSET = 0.3  # pixels


@dataclasses.dataclass(frozen=True)
class Clip:
    """A simulated clip and the truth about it.

    frames uint8 [T, 112, 112]; masks uint8 [T, 112, 112] with 0 background, 1 LV cavity, 2 myocardium, 3 left
    atrium; ef in percent, edv and esv in mL, all of the labelled beat as sampled at ed_frame and es_frame;
    tracings: frame -> float [21, 2, 2], the long axis (apex first) and 20 chords from apex to base, x then y;
    beat: first and last frame of the labelled beat; attributes: what was drawn, by name.
    """

    frames: np.ndarray
    masks: np.ndarray
    ef: float
    edv: float
    esv: float
    fps: float
    ed_frame: int
    es_frame: int
    beat: tuple[int, int]
    tracings: dict[int, np.ndarray]
    attributes: dict[str, float | str]


def simulate(params: HeartParameters) -> Clip:
    """Simulates one examination; the same parameters give the same bytes."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng(params.seed)
    heart = Heart(params)
    times = np.arange(params.num_frames) / params.fps
    squeeze = cycle.contraction(params.beats, times, params.systole, params.early_filling)
    opening = cycle.valve_opening(params.beats, times, params.systole)
    poses = _poses(params, times, squeeze, rng)
    frames, masks = _render(heart, squeeze, opening, poses, rng)

    beat = rhythm.labelled_beat(params.beats, params.num_frames / params.fps, params.systole)
    inside = np.flatnonzero((times >= beat.start) & (times < beat.start + beat.duration))
    end = np.searchsorted(times, beat.start + 1.3 * rhythm.systole(beat.duration, params.systole))
    ed_frame = int(inside[0])
    es_frame = int(ed_frame + np.argmax(squeeze[ed_frame:end]))
    edv, esv = heart.volume(squeeze[ed_frame]), heart.volume(squeeze[es_frame])
    millilitres = (params.mm_per_pixel / 10) ** 3
    return Clip(
        frames=frames,
        masks=masks,
        ef=100 * (edv - esv) / edv,
        edv=edv * millilitres,
        esv=esv * millilitres,
        fps=params.fps,
        ed_frame=ed_frame,
        es_frame=es_frame,
        beat=(int(inside[0]), int(inside[-1])),
        tracings={t: _tracing(heart, squeeze[t], poses[t]) for t in (ed_frame, es_frame)},
        attributes=_attributes(params, masks[ed_frame]),
    )


def _smooth_walk(times: np.ndarray, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Zero-mean random motion of unit deviation that changes over about `seconds`. float [T]."""
    frequencies = rng.uniform(0.2, 1.0, 5) / seconds
    phases = rng.uniform(0, 2 * np.pi, 5)
    return np.sqrt(2 / 5) * np.sin(2 * np.pi * frequencies[:, None] * times + phases[:, None]).sum(axis=0)


def _poses(
    params: HeartParameters, times: np.ndarray, squeeze: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Affine maps from the heart frame to the image at each time, float [T, 2, 3]: rotation and shift."""
    progress = times / times[-1] - 0.5
    depth, period, phase = params.respiration
    swing_x, swing_y, swing_angle = params.swing
    breath = depth * np.sin(2 * np.pi * (times / period + phase))
    x = params.centre[0] + params.drift[0] * progress + params.wander * _smooth_walk(times, 1.0, rng)
    y = params.centre[1] + params.drift[1] * progress + params.wander * _smooth_walk(times, 1.0, rng)
    angle = params.tilt + params.drift_rotation * progress
    angle = angle + params.wander_rotation * _smooth_walk(times, 1.0, rng) + swing_angle * squeeze
    x = x + swing_x * squeeze + 0.4 * breath
    y = y + swing_y * squeeze + breath
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin, x], -1), np.stack([sin, cos, y], -1)], axis=1)


def _place(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    return points @ pose[:, :2].T + pose[:, 2]


def _render(heart, squeeze, opening, poses, rng) -> tuple[np.ndarray, np.ndarray]:
    params = heart.params
    tissue, atrium = painting.paint(heart, rng)
    # The probe as the tissue sees it, so that its speckle lies along the beams.
    middle = poses[len(poses) // 2]
    tip = (np.array(params.tip) - middle[:, 2]) @ middle[:, :2] + painting.CENTRE
    fields = speckle.field(tissue.shape, tuple(tip), rng, tilt=-np.arctan2(middle[1, 0], middle[0, 0]))
    planes = [np.ascontiguousarray(fields[..., k] * tissue) for k in range(4)]
    scanner = Scanner(params, rng)
    steps = rng.normal(0, params.decorrelation / np.sqrt(params.fps), params.num_frames)
    plane = np.cumsum(steps) + params.through_plane * squeeze
    flicker = rng.normal(0, params.flicker, params.num_frames)
    row, column = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    frames = np.empty((params.num_frames, SIZE, SIZE), np.uint8)
    masks = np.empty_like(frames)
    for t, pose in enumerate(poses.astype(np.float32)):
        inverse = pose[:, :2].T
        dx, dy = column - pose[0, 2], row - pose[1, 2]
        x, y = inverse[0, 0] * dx + inverse[0, 1] * dy, inverse[1, 0] * dx + inverse[1, 1] * dy
        x, y, labels = heart.material(x, y, float(squeeze[t]))
        x, y = x + painting.CENTRE[0], y + painting.CENTRE[1]
        in_atrium = cv2.remap(atrium, 4 * x + 1.5, 4 * y + 1.5, cv2.INTER_NEAREST)
        masks[t] = np.where(labels > 0, labels, 3 * in_atrium)
        cos, sin = np.cos(plane[t]), np.sin(plane[t])
        real = cv2.addWeighted(planes[0], cos, planes[2], sin, 0)
        echo = cv2.magnitude(real, cv2.addWeighted(planes[1], cos, planes[3], sin, 0))
        echo = cv2.remap(echo, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        leaflets = [_place(leaflet, pose) for leaflet in _leaflets(heart, squeeze[t], opening[t])]
        frames[t] = scanner.picture(echo, leaflets, flicker[t], rng)
    return frames, masks


def _leaflets(heart: Heart, squeeze: float, opening: float) -> list[np.ndarray]:
    """Mitral and tricuspid leaflets in the heart frame, each a polyline [3, 2] from the hinge to the tip."""
    p = heart.params
    left, right = heart.annulus_x
    base = heart.base_y - heart.shortening * squeeze
    edge = -p.half_width * p.septal_width - p.wall
    lateral = edge - p.rv_width * p.half_width + 1
    lateral_base = heart.base_y - p.rv_longitudinal * squeeze
    valves = (
        ((left, base), (right, base), 0.62, p.mitral_opening),
        ((left - 5, base + 2), (lateral, lateral_base + 1), 0.55, p.tricuspid_opening),
    )
    leaflets = []
    for start, stop, share, widest in valves:
        for hinge, other, reach in ((start, stop, share), (stop, start, 1 - share)):
            along = np.subtract(other, hinge) * reach
            side = 1.0 if along[0] > 0 else -1.0
            turn = -side * (0.12 + widest * opening)
            cos, sin = np.cos(turn), np.sin(turn)
            tip = np.array([cos * along[0] - sin * along[1], sin * along[0] + cos * along[1]])
            bend = np.array([0.55 * tip[0] + 0.1 * along[0], 0.55 * tip[1] - 1.0])
            leaflets.append(np.array([hinge, hinge + bend, hinge + tip]))
    return leaflets


def _tracing(heart: Heart, squeeze: float, pose: np.ndarray) -> np.ndarray:
    """Long axis and 20 chords in image pixels, as an expert's tracing gives them. float [21, 2, 2]."""
    contour = _place(heart.contour(squeeze), pose)
    apex, base = (_place(point, pose) for point in heart.axis(squeeze))
    # A little inside the border, as drawn by hand: readers round to whole pixels and count the outline in.
    inset = _INSET / np.linalg.norm(base - apex)
    ends = measure.chords(contour, apex, base, np.linspace(0.008 + inset, 0.995 - inset, measure.NUM_DISCS))
    across = ends[:, 1] - ends[:, 0]
    width = np.linalg.norm(across, axis=1, keepdims=True)
    shift = across / width * np.minimum(_INSET, 0.4 * width)
    ends = np.stack([ends[:, 0] + shift, ends[:, 1] - shift], axis=1)
    return np.concatenate([[[apex, base]], ends])


def _attributes(params: HeartParameters, mask: np.ndarray) -> dict[str, float | str]:
    """What was drawn, by the name under which `attributes.csv` lists it."""
    return {
        "HeartRate": params.heart_rate,
        "Rhythm": params.rhythm,
        "Phase": params.phase,
        "EDArea": float((mask == 1).sum()),
        "Length": params.length,
        "CentreX": params.centre[0],
        "CentreY": params.centre[1],
        "Tilt": params.tilt,
        "Gain": params.gain,
        "DynamicRange": params.dynamic_range,
        "Noise": params.noise,
        "Clutter": params.clutter,
        "Decorrelation": params.decorrelation,
        "Respiration": params.respiration[0],
        "RVMotion": params.rv_longitudinal,
        "StillRegion": max(region.depth for region in params.regions),
        "Shadows": float(len(params.shadows)),
        "MillimetresPerPixel": params.mm_per_pixel,
    }
