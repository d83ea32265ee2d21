"""The parasternal short axis at the papillary muscles (PSAX): a ring of wall, with the right ventricle around it.

Heart frame: origin in the middle of the LV cavity, x to the right of the picture (lateral wall), y down (inferior).
"""

import dataclasses

import numpy as np

from tfds_builders.echo_phantom import painting, ventricle
from tfds_builders.echo_phantom.painting import SILENT, ellipse, fill, line
from tfds_builders.echo_phantom.parameters import HeartParameters, draw_heart
from tfds_builders.echo_phantom.ventricle import ANGLES

_RIM = 6  # pixels over which the motion of the right ventricle's free wall sets in


@dataclasses.dataclass(frozen=True)
class ShortAxisParameters(HeartParameters):
    """A heart seen across its axis: `half_width` is the cavity's mean radius, `length` the axis out of the plane."""

    lobes: tuple[tuple[int, float, float], ...]  # waves around the ring, depth, phase: the cavity is no circle
    rv_middle: float  # radians, direction of the middle of the right ventricle
    rv_spread: float  # radians to either end
    papillary: tuple[tuple[float, float], ...]  # direction and half width of each muscle, relative to the radius


def draw_short_axis(rng: np.random.Generator) -> ShortAxisParameters:
    """Draws one examination; as `draw_heart`, all but `ef` does not depend on it."""
    base = draw_heart(rng)
    radius = float(rng.uniform(13.5, 21.0))
    rv_width = float(rng.uniform(0.6, 1.0))
    depth = base.tip[1] + 10 + base.wall + rv_width * 0.55 * radius + radius
    centre = float(base.tip[0] + rng.normal(3, 4)), float(depth + rng.uniform(0, 10))
    return ShortAxisParameters(
        **vars(base) | {
            "half_width": radius, "rv_width": rv_width, "centre": centre,
            "tilt": float(np.deg2rad(rng.normal(0, 9))), "contrast": float(rng.uniform(-10, 2)),
        },
        lobes=tuple((k, float(rng.uniform(0, 0.05)), float(rng.uniform(0, 2 * np.pi))) for k in (2, 3)),
        rv_middle=float(np.pi * 1.2 + rng.normal(0, 0.12)),
        rv_spread=float(rng.uniform(1.15, 1.45)),
        papillary=(
            (float(0.55 + rng.normal(0, 0.12)), float(rng.uniform(0.16, 0.24))),
            (float(2.35 + rng.normal(0, 0.12)), float(rng.uniform(0.16, 0.24))),
        ),
    )  # fmt: skip


class ShortAxis(ventricle.Ventricle):
    """Contracts in the plane along rays; the axis, which stands on the plane, shortens unseen."""

    def __init__(self, params: ShortAxisParameters):
        endo = params.half_width * np.ones_like(ANGLES)
        for waves, depth, phase in params.lobes:
            endo *= 1 + depth * np.cos(waves * ANGLES + phase)
        everywhere = np.ones_like(ANGLES)
        activity = ventricle.activity(everywhere, params.regions)
        # Of the right ventricle: 1 in the direction of its middle, 0 beyond its ends.
        away = np.mod(ANGLES - params.rv_middle + np.pi, 2 * np.pi) - np.pi
        self.rv_profile = (np.clip(1 - (away / params.rv_spread) ** 2, 0, 1) ** 0.7).astype(np.float32)
        super().__init__(params, endo, endo + params.wall, everywhere, activity)

    def contour(self, contraction, inward=None):
        return painting.ring(self.radii(contraction, inward)[0])

    def area(self, contraction: float, inward: float | None = None) -> float:
        """Of the cavity, papillary muscles included, in square pixels."""
        x, y = self.contour(contraction, inward).T
        return float(0.5 * np.abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)))

    def axis_length(self, contraction: float) -> float:
        """Apex to mitral plane, in pixels."""
        return self.params.length - self.shortening * contraction

    def volume(self, contraction, inward=None):
        """The bullet formula, 5/6 of area times length."""
        return 5 / 6 * self.area(contraction, inward) * self.axis_length(contraction)

    def surroundings(self, x, y, contraction):
        # The free wall of the right ventricle comes towards the septum.
        radius, index = ventricle.to_rays(x, y)
        outside = np.clip((radius - self.epi.astype(np.float32).take(index)) / _RIM, 0, 1)
        inward = np.float32(self.params.rv_radial * contraction) * self.rv_profile.take(index) * outside
        scale = 1 + inward / np.maximum(radius, 1)
        return x * scale, y * scale

    def paint(self, rng):
        p = self.params
        levels = painting.background(p, rng)
        inside = self.rv_profile
        rv_outside = self.epi + 1 + p.rv_width * p.half_width * inside
        # The wall of the right ventricle and the pericardium around both; the lung behind reflects most.
        fill(levels, painting.ring(np.maximum(rv_outside, self.epi) + 5), -16.0 + 0.5 * p.contrast)
        fill(levels, painting.ring(rv_outside + 2.5 * (inside > 0)), -12.0)
        behind = (ANGLES > 0.1) & (ANGLES < np.pi - 0.4)
        line(levels, painting.ring(self.epi + 2.0)[behind], -2.0, 4)
        fill(levels, painting.ring(np.where(inside > 0.02, rv_outside, self.epi)), SILENT)
        # A trabecula (moderator band) across the right ventricle.
        across = p.rv_middle + 0.35 * p.rv_spread
        direction = np.array([np.cos(across), np.sin(across)])
        radius = np.interp(np.mod(across, 2 * np.pi), ANGLES, self.epi)
        line(levels, np.outer([radius, radius + p.rv_width * p.half_width * 0.8], direction), -16.0, 3)
        fill(levels, painting.ring(self.epi), -13.0)
        # Both faces of the septum reflect.
        septum = inside > 0.2
        line(levels, painting.ring(self.epi - 0.5)[septum], -6.0, 2)
        return painting.finish(levels, painting.ring(self.endo), {}, rng, self._papillary())

    def _papillary(self) -> list[np.ndarray]:
        """Outlines of the muscles, which grow from the wall into the cavity."""
        p = self.params
        outlines = []
        for angle, size in p.papillary:
            at = p.half_width * (0.93 - size)
            outlines.append(ellipse(at * np.cos(angle), at * np.sin(angle), *(2 * [size * p.half_width])))
        return outlines

    def leaflets(self, contraction, opening):
        return []  # the plane lies below the valves
