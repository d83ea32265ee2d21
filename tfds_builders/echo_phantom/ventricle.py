"""The left ventricle as a radius in each direction from its centre, contracting along these rays.

*Material* coordinates are those a piece of tissue has at end-diastole. `Ventricle.stretch` takes points of the
heart frame (origin in the cavity, pixels, x to the right, y down) at a moment back to them; contours and pictures
are drawn once, in material coordinates.
"""

import abc

import cv2
import numpy as np

from tfds_builders.echo_phantom.parameters import HeartParameters, Region

NUM_ANGLES = 1024
ANGLES = (np.arange(NUM_ANGLES) + 0.5) / NUM_ANGLES * 2 * np.pi
MAX_INWARD = 0.75  # of the radius that the most active part of the wall may lose


class Ventricle(abc.ABC):
    """Cavity and wall of one heart in one view; what does not change with time is computed once.

    Args:
      params: of the heart.
      endo, epi: float [NUM_ANGLES], radii of the cavity and of the wall's outside at end-diastole, by `ANGLES`.
      in_wall: float [NUM_ANGLES], 1 where a direction meets the wall, 0 where it meets a valve.
      activity: float [NUM_ANGLES], inward motion of each direction relative to the most active.
    """

    def __init__(self, params: HeartParameters, endo, epi, in_wall, activity):
        self.params = params
        self.endo, self.epi, self.in_wall, self.activity = endo, epi, in_wall, activity
        self.far = epi + 22.0
        # Of the long axis, in pixels, by a contraction of 1.
        self.shortening = 0.24 * params.length * params.ef / 65 * params.longitudinal
        self.inward = float(self._solve_inward())

    @abc.abstractmethod
    def volume(self, contraction: float, inward: float | None = None) -> float:
        """Of the cavity, in cubic pixels."""

    @abc.abstractmethod
    def contour(self, contraction: float, inward: float | None = None) -> np.ndarray:
        """Outline of the cavity in the heart frame, float [NUM_ANGLES, 2]."""

    @abc.abstractmethod
    def surroundings(self, x: np.ndarray, y: np.ndarray, contraction: float):
        """Undoes the motion of everything but the stretch along rays; x, y float32 [H, W] of the heart frame."""

    @abc.abstractmethod
    def paint(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The picture at end-diastole in material coordinates; see `painting.finish`."""

    @abc.abstractmethod
    def leaflets(self, contraction: float, opening: float) -> list[np.ndarray]:
        """Leaflets of the valves in the heart frame, each a polyline [3, 2] from the hinge to the tip."""

    def material(self, x: np.ndarray, y: np.ndarray, contraction: float):
        """Material coordinates of points of the heart frame.

        Args:
          x, y: float32 [H, W].
          contraction: a python float, 0 at end-diastole; the atria fill as the ventricles contract.

        Returns:
          x, y in material coordinates, float32 [H, W], and uint8 [H, W]: 1 cavity, 2 myocardium, 0 elsewhere.
        """
        return self.stretch(*self.surroundings(x, y, contraction), contraction)

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

    def stretch(self, x: np.ndarray, y: np.ndarray, contraction: float):
        """Undoes the motion towards the centre: cavity, wall and surroundings each stretch linearly along rays."""
        radius, index = to_rays(x, y)
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


def activity(in_wall: np.ndarray, regions: tuple[Region, ...]) -> np.ndarray:
    """Scales the motion of each direction by the regional differences; the most active gets 1."""
    for region in regions:
        distance = np.mod(ANGLES - region.angle + np.pi, 2 * np.pi) - np.pi
        in_wall = in_wall * (1 - region.depth * np.exp(-0.5 * (distance / region.spread) ** 2))
    in_wall = np.clip(in_wall, 0, None)
    return in_wall / in_wall.max()


def to_rays(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance from the centre and index into `ANGLES` of points of the heart frame, float32 and int32 [H, W]."""
    radius, angle = cv2.cartToPolar(x, y)
    return radius, np.minimum((angle * np.float32(NUM_ANGLES / (2 * np.pi))).astype(np.int32), NUM_ANGLES - 1)


def to_image(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Points [..., 2] of the heart frame in the image, by a pose [2, 3]."""
    return points @ pose[:, :2].T + pose[:, 2]
