"""Apical views: the left ventricle along its axis, apex near the probe, and what lies around it.

Heart frame: pixels, origin in the LV cavity on the long axis, x to the right (lateral), y down (to the base).
"""

import dataclasses

import numpy as np

from tfds_builders.echo_phantom import measure, painting, ventricle
from tfds_builders.echo_phantom.painting import SILENT, ellipse, fill, grown, line, part, smooth
from tfds_builders.echo_phantom.parameters import ORIGIN, HeartParameters
from tfds_builders.echo_phantom.ventricle import ANGLES

_INSET = 0.3  # pixels


class Apical(ventricle.Ventricle):
    """A left ventricle cut along its axis, with annulus and left atrium below."""

    def __init__(self, params: HeartParameters):
        self.params = params
        self.apex_y = -ORIGIN * params.length
        self.base_y = (1 - ORIGIN) * params.length
        self.roof_y = self.base_y + params.la_length
        right, left = self._annulus()
        self.annulus_x = (float(left), float(right))
        endo, in_wall = self._endocardium(), self._wall_weight()
        super().__init__(params, endo, endo + self._wall(), in_wall, self._activity(in_wall))

    def _annulus(self) -> tuple[float, float]:
        p = self.params
        return p.half_width * p.base_width, -p.half_width * p.base_width * p.septal_width

    def _endocardium(self) -> np.ndarray:
        """Radius of the cavity in each of NUM_ANGLES directions."""
        p = self.params
        s = np.concatenate([np.linspace(0, 1, 200) ** 2 * 0.6, np.linspace(0.6, 1, 100)[1:]])
        apical = np.clip(1 - np.abs((0.6 - s) / 0.6) ** p.roundness, 0, 1) ** 0.5
        basal = 1 - (1 - p.base_width) * ((s - 0.6) / 0.4) ** 2
        width = p.half_width * np.where(s < 0.6, apical, basal)
        y = self.apex_y + s * p.length
        plane = np.linspace(1, -1, 60)[1:-1]
        plane_x = np.where(plane > 0, plane * self.annulus_x[1], -plane * self.annulus_x[0])
        x = np.concatenate([width, plane_x, -p.septal_width * width[::-1]])
        y = np.concatenate([y, np.full(len(plane), self.base_y), y[::-1]])
        angle = np.mod(np.arctan2(y, x), 2 * np.pi)
        order = np.argsort(angle)
        return np.interp(ANGLES, angle[order], np.hypot(x, y)[order], period=2 * np.pi)

    def _wall_weight(self) -> np.ndarray:
        """1 where a direction meets the wall, 0 where it meets the mitral plane."""
        corners = [np.arctan2(self.base_y, x) for x in self.annulus_x[::-1]]
        return ((ANGLES < corners[0]) | (ANGLES > corners[1])).astype(np.float64)

    def _wall(self) -> np.ndarray:
        """Thickness in each direction; thinner at the apex, as hearts are."""
        return self.params.wall * (1 - 0.35 * np.exp(-(((ANGLES - 1.5 * np.pi) / 0.5) ** 2)))

    def _activity(self, in_wall: np.ndarray) -> np.ndarray:
        """Inward motion of each direction relative to the most active; 0 in the mitral plane."""
        corners = [np.arctan2(self.base_y, x) for x in self.annulus_x[::-1]]
        from_corner = np.minimum(
            np.mod(corners[0] - ANGLES, 2 * np.pi), np.mod(ANGLES - corners[1], 2 * np.pi)
        )
        activity = in_wall * np.sin(np.pi / 2 * np.clip(from_corner / 0.9, 0, 1)) ** 1.5
        activity *= 1 - 0.4 * np.exp(-(((ANGLES - 1.5 * np.pi) / 0.45) ** 2))
        return ventricle.activity(activity, self.params.regions)

    def contour(self, contraction: float, inward: float | None = None) -> np.ndarray:
        """Outline of the cavity in the heart frame, float [NUM_ANGLES, 2]."""
        endo, _ = self.radii(contraction, inward)
        x, y = endo * np.cos(ANGLES), endo * np.sin(ANGLES)
        top = self.apex_y - self.params.wall
        share = (y - top) / (self.base_y - top)
        return np.stack([x, y - share * self.shortening * contraction], axis=1)

    def axis(self, contraction: float, inward: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the long axis in the heart frame: from the apex down to the middle of the mitral plane.

        It stands on that plane, so that discs are parallel to it and none is cut by it.
        """
        top = self.contour(contraction, inward)[:, 1].min()
        middle = np.mean(self.annulus_x)
        return np.array([middle, top]), np.array([middle, self.base_y - self.shortening * contraction])

    def volume(self, contraction: float, inward: float | None = None) -> float:
        """Cubic pixels, by discs."""
        return measure.disc_volume(self.contour(contraction, inward), *self.axis(contraction, inward))

    def tracing(self, contraction: float, pose: np.ndarray) -> np.ndarray:
        """Long axis and 20 chords in image pixels, as an expert's tracing gives them. float [21, 2, 2]."""
        contour = ventricle.to_image(self.contour(contraction), pose)
        apex, base = (ventricle.to_image(point, pose) for point in self.axis(contraction))
        # A little inside the border, as drawn by hand: readers round to whole pixels and count the outline in.
        inset = _INSET / np.linalg.norm(base - apex)
        levels = np.linspace(0.008 + inset, 0.995 - inset, measure.NUM_DISCS)
        ends = measure.chords(contour, apex, base, levels)
        across = ends[:, 1] - ends[:, 0]
        width = np.linalg.norm(across, axis=1, keepdims=True)
        shift = across / width * np.minimum(_INSET, 0.4 * width)
        ends = np.stack([ends[:, 0] + shift, ends[:, 1] - shift], axis=1)
        return np.concatenate([[[apex, base]], ends])

    def atrium(self) -> np.ndarray:
        """Outline of the left atrium at end-diastole."""
        left, right = self.annulus_x
        angle = np.linspace(0, np.pi, 60)
        bulge = 1 + 0.25 * np.sin(angle) ** 2
        x = (left + right) / 2 + (right - left) / 2 * np.cos(angle) * bulge
        y = self.base_y + self.params.la_length * np.sin(angle) ** 0.8
        return np.stack([x, y], axis=1)

    def mitral(self, contraction: float, opening: float) -> list[np.ndarray]:
        """Leaflets of the mitral valve."""
        left, right = self.annulus_x
        base = self.base_y - self.shortening * contraction
        return leaflet_pair((left, base), (right, base), 0.62, 0.12 + self.params.mitral_opening * opening)

    def _lift(self, y, lift: float):
        """How far below its present place the tissue at height y lies at end-diastole."""
        top = self.apex_y - self.params.wall
        above = (y - top) / (self.base_y - lift - top)
        under = (self.roof_y - y) / (self.roof_y - self.base_y + lift)
        return lift * np.clip(np.minimum(above, under), 0, None)


class FourChamber(Apical):
    """The apical four-chamber view (A4C): with the right heart on the left of the picture."""

    def __init__(self, params: HeartParameters):
        super().__init__(params)
        self.septum = -params.half_width * params.septal_width - params.wall
        self.rv_edge = self.septum - params.rv_width * params.half_width

    def surroundings(self, x, y, contraction):
        p = self.params
        # Long axis: apex and atrial roof stay, the annulus moves; beyond the septum the RV says how far.
        rightness = np.clip((self.septum - x) / 14.0, 0, 1)
        left_lift, right_lift = self.shortening * contraction, p.rv_longitudinal * contraction
        y = y + (1 - rightness) * self._lift(y, left_lift) + rightness * self._lift(y, right_lift)
        # RV free wall towards the septum.
        x = x - p.rv_radial * contraction * rightness
        # Atria swell about their centres.
        right_centre = self.septum - p.rv_width * p.half_width * 0.6
        below = np.clip((y - self.base_y - 1) / 5, 0, 1)
        for centre_x, motion in ((0.0, p.la_motion), (right_centre, p.ra_motion)):
            dx, dy = x - centre_x, y - (self.base_y + 0.5 * p.la_length)
            near = below * (motion * contraction) / (1 + ((dx * dx + dy * dy) / 15.0**2) ** 2)
            x, y = x - dx * near, y - dy * near
        return x, y

    def right_ventricle(self) -> np.ndarray:
        """Corners of the right ventricle at end-diastole, to be rounded by `painting.smooth`."""
        p, septum, rv_edge = self.params, self.septum, self.rv_edge
        base, left = self.base_y, self.annulus_x[0]
        middle = (septum + 3 + rv_edge) / 2
        return np.array([
            [septum + 4, -0.62 * p.length * 0.7], [middle + 4, -0.2 * p.length], [rv_edge + 2, 0.1 * p.length],
            [rv_edge, base - 6], [rv_edge + 3, base + 3], [left - 6, base + 2], [septum, 0.15 * p.length],
            [septum - 1, -0.1 * p.length],
        ])  # fmt: skip

    def paint(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        p, septum, rv_edge = self.params, self.septum, self.rv_edge
        levels = painting.background(p, rng)
        epi = painting.ring(self.epi)
        left, right = self.annulus_x
        base, roof = self.base_y, self.roof_y
        middle = (septum + 3 + rv_edge) / 2
        # Pericardium and fat around the whole; the lung beside the lateral wall reflects most.
        fill(levels, grown(epi, 7), -17.0 + 0.5 * p.contrast)
        line(levels, part(grown(epi, 3), lambda x, y: (x > 4) & (y > -0.3 * p.length)), -1.0, 3)
        around = ellipse(middle, base + 0.45 * p.la_length, 0.66 * (septum - rv_edge), 0.62 * p.la_length)
        fill(levels, around, -14.0)
        fill(levels, ellipse(0, (base + roof) / 2, 0.6 * (right - left) + 5, 0.5 * p.la_length + 6), -11.0)
        # Right heart.
        rv = self.right_ventricle()
        fill(levels, grown(rv, 3), -14.0)
        fill(levels, smooth(rv), SILENT)
        ra_width = max(0.5 * (left - 3 - rv_edge) - 1, 5)
        fill(
            levels,
            ellipse(left - 4 - ra_width, base + 0.48 * p.la_length, ra_width, 0.48 * p.la_length),
            SILENT,
        )
        # Left heart.
        fill(levels, epi, -13.0)
        line(levels, part(epi, lambda x, y: x < 0), -7.0, 2)
        fill(levels, self.atrium(), SILENT)
        for x in (left - 1.5, right + 1.5):
            fill(levels, ellipse(x, base + 0.5, 3.0, 3.0), -1.0)
        line(levels, np.array([[left - 2.5, base], [left - 3.0, roof - 4]]), -5.0, 4)
        line(levels, np.array([[rv_edge - 2, base], [rv_edge - 1, base + 6]]), -3.0, 5)
        return painting.finish(levels, painting.ring(self.endo), {3: self.atrium()}, rng)

    def leaflets(self, contraction: float, opening: float) -> list[np.ndarray]:
        p = self.params
        base = self.base_y - self.shortening * contraction
        lateral = self.rv_edge + 1
        lateral_base = self.base_y - p.rv_longitudinal * contraction
        tricuspid = leaflet_pair(
            (self.annulus_x[0] - 5, base + 2), (lateral, lateral_base + 1),
            0.55, 0.12 + p.tricuspid_opening * opening,
        )  # fmt: skip
        return self.mitral(contraction, opening) + tricuspid

    def right_volume(self, contraction: float) -> float:
        """Volume of the right ventricle in cubic pixels, 8 A^2 / (3 pi L), from its area and length in the view."""
        step = 0.5
        x, y = np.meshgrid(
            np.arange(self.rv_edge - 4, self.annulus_x[0] + 8, step, dtype=np.float32),
            np.arange(0.6 * self.apex_y, self.base_y + 6, step, dtype=np.float32),
        )
        outline = np.zeros((4 * painting.CANVAS,) * 2, np.uint8)
        fill(outline, smooth(self.right_ventricle()), 1, fine=4)
        at_x, at_y, label = self.material(x, y, contraction)
        inside = (painting.look_up(outline, at_x, at_y) > 0) & (label == 0)
        rows = np.flatnonzero(inside.any(axis=1))
        area, length = inside.sum() * step**2, (rows[-1] - rows[0] + 1) * step
        return float(8 * area**2 / (3 * np.pi * length))


class TwoChamber(Apical):
    """The apical two-chamber view (A2C): inferior wall on the left, anterior on the right, no right heart."""

    def surroundings(self, x, y, contraction):
        p = self.params
        y = y + self._lift(y, self.shortening * contraction)
        dx, dy = x, y - (self.base_y + 0.5 * p.la_length)
        near = np.clip((y - self.base_y - 1) / 5, 0, 1) * (p.la_motion * contraction)
        near = near / (1 + ((dx * dx + dy * dy) / 15.0**2) ** 2)
        return x - dx * near, y - dy * near

    def paint(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        p = self.params
        levels = painting.background(p, rng)
        epi = painting.ring(self.epi)
        left, right = self.annulus_x
        base, roof = self.base_y, self.roof_y
        fill(levels, grown(epi, 7), -17.0 + 0.5 * p.contrast)
        # Lung beside the anterior wall, diaphragm and liver under the inferior one.
        line(levels, part(grown(epi, 3), lambda x, y: (x > 4) & (y > -0.3 * p.length)), -2.0, 3)
        line(levels, part(grown(epi, 2), lambda x, y: (x < -4) & (y > -0.1 * p.length)), -5.0, 3)
        fill(levels, ellipse(0, (base + roof) / 2, 0.6 * (right - left) + 6, 0.5 * p.la_length + 6), -10.0)
        fill(levels, epi, -13.0)
        # Appendage of the atrium on the anterior side, coronary sinus in the inferior groove.
        fill(levels, ellipse(right + 6, base + 0.3 * p.la_length, 5.0, 4.0), -45.0)
        fill(levels, ellipse(left - 5.5, base + 2.5, 2.5, 2.2), -45.0)
        fill(levels, self.atrium(), SILENT)
        for x in (left - 1.5, right + 1.5):
            fill(levels, ellipse(x, base + 0.5, 3.0, 3.0), -1.0)
        return painting.finish(levels, painting.ring(self.endo), {3: self.atrium()}, rng)

    def leaflets(self, contraction: float, opening: float) -> list[np.ndarray]:
        return self.mitral(contraction, opening)


def leaflet_pair(start, stop, share: float, turn: float) -> list[np.ndarray]:
    """Two leaflets of a valve, which reach from its ends to each other.

    Args:
      start, stop: x, y of the hinges.
      share: of the way that the leaflet of `start` reaches.
      turn: radians from the valve's plane towards smaller y.
    """
    leaflets = []
    for hinge, other, reach in ((start, stop, share), (stop, start, 1 - share)):
        along = np.subtract(other, hinge) * reach
        side = 1.0 if along[0] > 0 else -1.0
        cos, sin = np.cos(-side * turn), np.sin(-side * turn)
        tip = np.array([cos * along[0] - sin * along[1], sin * along[0] + cos * along[1]])
        bend = np.array([0.55 * tip[0] + 0.1 * along[0], 0.55 * tip[1] - 1.0])
        leaflets.append(np.array([hinge, hinge + bend, hinge + tip]))
    return leaflets


def with_rvef(params: HeartParameters, rvef: float) -> HeartParameters:
    """The same heart with the motion of its right ventricle scaled so as to give this ejection fraction in percent."""
    heart = FourChamber(params)
    low, high = 0.0, 6.0
    for _ in range(14):
        middle = (low + high) / 2
        # A heart's motion is read from its parameters at each call.
        heart.params = _scaled_right_motion(params, middle)
        ejected = 100 * (1 - heart.right_volume(1.0) / heart.right_volume(0.0))
        low, high = (middle, high) if ejected < rvef else (low, middle)
    return _scaled_right_motion(params, (low + high) / 2)


def _scaled_right_motion(params: HeartParameters, factor: float) -> HeartParameters:
    # An annulus that moved further than this would fold the tissue above it.
    longitudinal = min(factor * params.rv_longitudinal, 0.26 * params.length)
    return dataclasses.replace(params, rv_longitudinal=longitudinal, rv_radial=factor * params.rv_radial)
