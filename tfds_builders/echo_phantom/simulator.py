"""Simulates a clip of one view with known volumes, masks and ejection fraction."""

import dataclasses

import cv2
import numpy as np

from tfds_builders.echo_phantom import cycle, painting, rhythm, speckle, ventricle, views
from tfds_builders.echo_phantom.parameters import HeartParameters, draw_heart
from tfds_builders.echo_phantom.scanner import SIZE, Scanner

__all__ = ["SIZE", "Clip", "draw_heart", "simulate"]


@dataclasses.dataclass(frozen=True)
class Clip:
    """A simulated clip and the truth about it.

    frames uint8 [T, 112, 112]; masks uint8 [T, 112, 112] with 0 background, 1 LV cavity, 2 myocardium, 3 left
    atrium; ef in percent, edv and esv in mL, all of the labelled beat as sampled at ed_frame and es_frame;
    beat: first and last frame of the labelled beat; attributes: what was drawn, by name; heart: the simulated one,
    whose contraction [T] and pose [T, 2, 3] (heart frame to image) at each frame tell whatever else there is to know.
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
    attributes: dict[str, float | str]
    heart: ventricle.Ventricle
    contraction: np.ndarray
    poses: np.ndarray

    @property
    def traced_frames(self) -> tuple[int, int]:
        """End-diastole and end-systole of the labelled beat."""
        return self.ed_frame, self.es_frame

    @property
    def tracings(self) -> dict[int, np.ndarray]:
        """Of an apical view: frame -> float [21, 2, 2], the long axis (apex first) and 20 chords from apex to base."""
        return {t: self.heart.tracing(self.contraction[t], self.poses[t]) for t in self.traced_frames}

    def outline(self, frame: int) -> np.ndarray:
        """Border of the cavity in image pixels, float [P, 2], x then y."""
        return ventricle.to_image(self.heart.contour(self.contraction[frame]), self.poses[frame])


def simulate(params: HeartParameters, view: str = "A4C") -> Clip:
    """Simulates one clip of a view (of `views.VIEWS`); the same parameters give the same bytes.

    >>> clip = simulate(draw_heart(np.random.default_rng(0)), view="A4C")
    >>> clip.frames.shape[1:], clip.frames.dtype, set(np.unique(clip.masks).tolist()) == {0, 1, 2, 3}
    ((112, 112), dtype('uint8'), True)
    >>> bool(clip.edv > clip.esv) and abs(clip.ef - 100 * (1 - clip.esv / clip.edv)) < 1e-6
    True
    """
    cv2.setNumThreads(1)
    rng = np.random.default_rng(params.seed)
    heart = views.VIEWS[view].heart(params)
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
        attributes=_attributes(params, masks[ed_frame]),
        heart=heart,
        contraction=squeeze,
        poses=poses,
    )


def _smooth_walk(times: np.ndarray, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Zero-mean random motion of unit standard deviation that changes over about `seconds`. float [T]."""
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


def _render(heart, squeeze, opening, poses, rng) -> tuple[np.ndarray, np.ndarray]:
    params = heart.params
    tissue, structures = heart.paint(rng)
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
        masks[t] = np.where(labels > 0, labels, painting.look_up(structures, x, y))
        x, y = x + painting.CENTRE[0], y + painting.CENTRE[1]
        cos, sin = np.cos(plane[t]), np.sin(plane[t])
        real = cv2.addWeighted(planes[0], cos, planes[2], sin, 0)
        echo = cv2.magnitude(real, cv2.addWeighted(planes[1], cos, planes[3], sin, 0))
        echo = cv2.remap(echo, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        leaflets = [ventricle.to_image(leaflet, pose) for leaflet in heart.leaflets(squeeze[t], opening[t])]
        frames[t] = scanner.picture(echo, leaflets, flicker[t], rng)
    return frames, masks


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
