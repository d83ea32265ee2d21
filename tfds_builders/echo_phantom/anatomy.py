"""Shape of the heart at end-diastole, and the motion that carries it through the beat.

Heart frame: pixels, origin in the LV cavity on the long axis, x to the right (lateral), y down (to the base).
*Material* coordinates are those a piece of tissue has at end-diastole. `Heart.material` takes points of the
heart frame at a moment back to them; contours and pictures are drawn once, in material coordinates.
"""

import cv2
import numpy as np

from tfds_builders.echo_phantom import measure
from tfds_builders.echo_phantom.parameters import ORIGIN, HeartParameters

NUM_ANGLES = 1024
MAX_INWARD = 0.75  # of the radius that the most active part of the wall may lose


class Heart:
    """Geometry of one heart; everything that does not change with time is computed once."""

    def __init__(self, params: HeartParameters):
        self.params = params
        self.apex_y = -ORIGIN * params.length
        self.base_y = (1 - ORIGIN) * params.length
        self.roof_y = self.base_y + params.la_length
        self.angles = (np.arange(NUM_ANGLES) + 0.5) / NUM_ANGLES * 2 * np.pi
        right, left = self._annulus()
        self.annulus_x = (float(left), float(right))
        self.endo = self._endocardium()
        self.in_wall = self._wall_weight()
        # Thinner at the apex, as hearts are.
        self.epi = self.endo + params.wall * (1 - 0.35 * np.exp(-(((self.angles - 1.5 * np.pi) / 0.5) ** 2)))
        self.far = self.epi + 22.0
        self.activity = self._activity()
        self.shortening = 0.24 * params.length * params.ef / 65 * params.longitudinal
        self.inward = float(self._solve_inward())

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
        return np.interp(self.angles, angle[order], np.hypot(x, y)[order], period=2 * np.pi)

    def _wall_weight(self) -> np.ndarray:
        """1 where a direction meets the wall, 0 where it meets the mitral plane."""
        corners = [np.arctan2(self.base_y, x) for x in self.annulus_x[::-1]]
        return ((self.angles < corners[0]) | (self.angles > corners[1])).astype(np.float64)

    def _activity(self) -> np.ndarray:
        """Inward motion of each direction relative to the most active; 0 in the mitral plane."""
        corners = [np.arctan2(self.base_y, x) for x in self.annulus_x[::-1]]
        from_corner = np.minimum(
            np.mod(corners[0] - self.angles, 2 * np.pi), np.mod(self.angles - corners[1], 2 * np.pi)
        )
        activity = self.in_wall * np.sin(np.pi / 2 * np.clip(from_corner / 0.9, 0, 1)) ** 1.5
        activity *= 1 - 0.4 * np.exp(-(((self.angles - 1.5 * np.pi) / 0.45) ** 2))
        for region in self.params.regions:
            distance = np.mod(self.angles - region.angle + np.pi, 2 * np.pi) - np.pi
            activity *= 1 - region.depth * np.exp(-0.5 * (distance / region.spread) ** 2)
        activity = np.clip(activity, 0, None)
        return activity / activity.max()

    def _solve_inward(self) -> float:
        """Inward motion of the most active wall, as a fraction of the radius, that gives the drawn EF.

        Where a still region leaves the rest too much to do, the region is made to move more.
        """
        target = (1 - self.params.ef / 100) * self.volume(0.0, 0.0)
        full = self.in_wall * self.activity.max()
        for _ in range(20):
            if self.volume(1.0, MAX_INWARD) <= target:
                break
            blunted = np.where(full > 0, 0.8 * self.activity + 0.2 * np.sqrt(self.activity), 0)
            self.activity = blunted / blunted.max()
        low, high = 0.0, MAX_INWARD
        for _ in range(18):
            middle = (low + high) / 2
            low, high = (middle, high) if self.volume(1.0, middle) > target else (low, middle)
        return (low + high) / 2

    def radii(self, contraction: float, inward: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Radius of endocardium and epicardium in each direction; the wall thickens as it shortens."""
        inward = self.inward if inward is None else inward
        endo = self.endo * (1 - np.minimum(inward * self.activity * contraction, 0.85))
        thickening = 1 / (1 - min(self.shortening * contraction / self.params.length, 0.5))
        epi = np.sqrt(endo**2 + (self.epi**2 - self.endo**2) * thickening)
        return endo, np.where(self.in_wall > 0, epi, np.maximum(endo + 1, self.epi))

    def contour(self, contraction: float, inward: float | None = None) -> np.ndarray:
        """Outline of the cavity in the heart frame, float [NUM_ANGLES, 2]."""
        endo, _ = self.radii(contraction, inward)
        x, y = endo * np.cos(self.angles), endo * np.sin(self.angles)
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

    def material(self, x: np.ndarray, y: np.ndarray, contraction: float):
        """Material coordinates of points of the heart frame.

        Args:
          x, y: float32 [H, W].
          contraction: a python float, 0 at end-diastole; the atria fill as the ventricles contract.

        Returns:
          x, y in material coordinates, float32 [H, W], and uint8 [H, W]: 1 cavity, 2 myocardium, 0 elsewhere.
        """
        p = self.params
        # Long axis: apex and atrial roof stay, the annulus moves; beyond the septum the RV says how far.
        edge = -p.half_width * p.septal_width - p.wall
        rightness = np.clip((edge - x) / 14.0, 0, 1)
        left_lift, right_lift = self.shortening * contraction, p.rv_longitudinal * contraction
        y = y + (1 - rightness) * self._lift(y, left_lift) + rightness * self._lift(y, right_lift)
        # RV free wall towards the septum.
        x = x - p.rv_radial * contraction * rightness
        # Atria swell about their centres.
        below = np.clip((y - self.base_y - 1) / 5, 0, 1)
        for centre_x, motion in ((0.0, p.la_motion), (edge - p.rv_width * p.half_width * 0.6, p.ra_motion)):
            dx, dy = x - centre_x, y - (self.base_y + 0.5 * p.la_length)
            near = below * (motion * contraction) / (1 + ((dx * dx + dy * dy) / 15.0**2) ** 2)
            x, y = x - dx * near, y - dy * near
        # Towards the LV centre, along rays: cavity, wall and surroundings each stretch linearly.
        radius, angle = cv2.cartToPolar(x, y)
        index = np.minimum((angle * np.float32(NUM_ANGLES / (2 * np.pi))).astype(np.int32), NUM_ANGLES - 1)
        endo, epi = self.radii(contraction)
        # Four stretches of each ray, from the centre out; in each, material radius = offset + slope * radius.
        ends = np.stack([endo, epi, self.far]).astype(np.float32)
        stretch = sum((radius >= end.take(index)).view(np.uint8) for end in ends)
        starts, starts_now = np.stack([self.endo, self.epi]), np.stack([endo, epi])
        slopes = np.diff(starts, axis=0, append=self.far[None]) / np.diff(
            starts_now, axis=0, append=self.far[None]
        )
        slopes = np.concatenate([self.endo[None] / endo, slopes, np.ones((1, NUM_ANGLES))])
        offsets = np.zeros_like(slopes)
        offsets[1:3] = starts - slopes[1:3] * starts_now
        index += stretch * np.int32(NUM_ANGLES)
        moved = offsets.astype(np.float32).take(index) + slopes.astype(np.float32).take(index) * radius
        scale = moved / np.maximum(radius, 1e-3)
        label = np.zeros((4, NUM_ANGLES), np.uint8)
        label[0], label[1] = 1, 2 * self.in_wall
        return x * scale, y * scale, label.take(index)

    def _lift(self, y, lift: float):
        """How far below its present place the tissue at height y lies at end-diastole."""
        top = self.apex_y - self.params.wall
        above = (y - top) / (self.base_y - lift - top)
        under = (self.roof_y - y) / (self.roof_y - self.base_y + lift)
        return lift * np.clip(np.minimum(above, under), 0, None)
