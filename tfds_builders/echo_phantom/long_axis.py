"""The parasternal long axis (PLAX): septum above, posterior wall below, aortic root and left atrium on the right.

Heart frame: as in the apical views y runs along the axis to the base, but x points to the septum, towards the probe;
the pose turns y to the right of the picture. The posterior wall is at negative x.
"""

import dataclasses

import numpy as np

from tfds_builders.echo_phantom import painting
from tfds_builders.echo_phantom.apical import Apical, leaflet_pair
from tfds_builders.echo_phantom.painting import SILENT, ellipse, fill, line, smooth
from tfds_builders.echo_phantom.parameters import HeartParameters, draw_heart
from tfds_builders.echo_phantom.ventricle import ANGLES

MEASURES = ("IVS", "LVID", "LVPW")


@dataclasses.dataclass(frozen=True)
class LongAxisParameters(HeartParameters):
    """A heart seen from the sternum: `wall` is the posterior wall, `rv_width` pixels of the outflow tract."""

    septum: float
    aorta: float  # pixels, diameter of the root


def draw_long_axis(rng: np.random.Generator) -> LongAxisParameters:
    """Draws one examination; as `draw_heart`, all but `ef` does not depend on it.

    Walls are 0.7 to 1.1 cm thick, in four of ten 1.1 to 2.0 cm.
    """
    base = draw_heart(rng)
    thickness = rng.uniform(1.1, 2.0) if rng.random() < 0.4 else rng.uniform(0.7, 1.1)
    septum = float(10 * thickness / base.mm_per_pixel)
    posterior = float(septum * rng.uniform(0.75, 1.05))
    half_width = float(rng.uniform(13.0, 20.0))
    rv_width = float(rng.uniform(8, 14))
    depth = base.tip[1] + 9 + rv_width + septum + half_width
    centre = float(base.tip[0] - rng.uniform(8, 16)), float(depth + rng.uniform(0, 6))
    return LongAxisParameters(
        **vars(base) | {
            "wall": posterior, "half_width": half_width, "rv_width": rv_width, "centre": centre,
            "septal_width": float(rng.uniform(0.9, 1.0)), "base_width": float(rng.uniform(0.88, 0.98)),
            "rv_radial": float(rng.uniform(0.5, 3.0)), "reach": float(rng.uniform(106, 122)),
            "tilt": float(np.deg2rad(-97 + rng.normal(0, 6))),
        },
        septum=septum,
        aorta=float(rng.uniform(17, 23)),
    )  # fmt: skip


class LongAxis(Apical):
    """A left ventricle on its side: walls of two thicknesses, aorta and atrium side by side at its base."""

    def __init__(self, params: LongAxisParameters):
        super().__init__(params)
        left, right = self.annulus_x
        # Where aorta and mitral valve meet: the root rides a little over the septum.
        self.junction = right + 0.15 * params.septum - params.aorta

    def _wall(self) -> np.ndarray:
        p = self.params
        towards_septum = 0.5 + 0.5 * np.cos(ANGLES)
        thickness = p.wall + (p.septum - p.wall) * towards_septum
        return thickness * (1 - 0.35 * np.exp(-(((ANGLES - 1.5 * np.pi) / 0.5) ** 2)))

    def lines(self, contraction: float) -> dict[str, np.ndarray]:
        """Septum, cavity and posterior wall on one line across the axis; name of `MEASURES` -> ends, float [2, 2].

        Each begins where the one before it ends, from the right ventricle to the pericardium.
        """
        endo, epi = self.radii(contraction)
        # The rays next to the line, to the septum (0) and away from it (pi).
        front, back = 0, len(ANGLES) // 2
        ends = [epi[front], endo[front], -endo[back], -epi[back]]
        height = self.contour(contraction)[front, 1]
        points = np.array([[x, height] for x in ends])
        return {name: points[index : index + 2] for index, name in enumerate(MEASURES)}

    def atrium(self) -> np.ndarray:
        left, _ = self.annulus_x
        angle = np.linspace(0, np.pi, 60)
        back = left - 4 - 9 * np.sin(angle)  # bulges behind the plane of the posterior wall
        front = self.junction - 1
        share = 0.5 - 0.5 * np.cos(angle)
        x = front + (back - front) * share
        y = self.base_y + 1 + self.params.la_length * np.sin(angle) ** 0.6
        return np.stack([x, y], axis=1)

    def surroundings(self, x, y, contraction):
        p = self.params
        y = y + self._lift(y, self.shortening * contraction)
        # Free wall of the right ventricle towards the septum.
        x = x + p.rv_radial * contraction * np.clip((x - self.annulus_x[1] - p.septum) / 10, 0, 1)
        dx, dy = x - (self.junction + self.annulus_x[0]) / 2, y - (self.base_y + 0.5 * p.la_length)
        near = np.clip((y - self.base_y - 1) / 5, 0, 1) * (p.la_motion * contraction)
        near = near / (1 + ((dx * dx + dy * dy) / 15.0**2) ** 2)
        return x - dx * near, y - dy * near

    def paint(self, rng):
        p = self.params
        levels = painting.background(p, rng)
        epi = painting.ring(self.epi)
        left, right = self.annulus_x
        base, front = self.base_y, right + 0.15 * p.septum
        end = base + 42
        # Behind the posterior wall and the atrium lies lung, which reflects most.
        fill(levels, painting.grown(epi, 6), -17.0 + 0.5 * p.contrast)
        behind = painting.part(painting.grown(epi, 2.5), lambda x, y: (x < -4) & (y < base))
        line(levels, behind, -1.0, 4)
        # Outflow tract of the right ventricle: above septum and aorta, under its own free wall.
        top = p.half_width + p.septum + p.rv_width
        tract = np.array([
            [top - p.rv_width - 3, -0.95 * p.length * 0.58], [top - 1, -0.35 * p.length], [top, 0.0],
            [top + 1, base], [top, end], [front + 3, end], [front + 3, base], [top - p.rv_width + 1, 0.0],
            [top - p.rv_width - 1, -0.3 * p.length],
        ])  # fmt: skip
        fill(levels, painting.grown(smooth(tract), 3), -11.0)
        fill(levels, smooth(tract), SILENT)
        fill(levels, epi, -13.0)
        # Aortic root, with sinuses that bulge, and the atrium behind it.
        y = np.linspace(base - 1, end, 40)
        bulge = 2.0 * np.exp(-(((y - base - 8) / 5) ** 2))
        walls = [np.stack([x + side * bulge, y], axis=1) for x, side in ((front, 1), (self.junction, -1))]
        atrium = self.atrium()
        fill(levels, painting.grown(atrium, 3.5), -10.0)
        fill(levels, atrium, SILENT)
        fill(levels, np.concatenate([walls[0], walls[1][::-1]]), SILENT)
        for wall in walls:
            line(levels, wall, -3.0, 4)
        # Descending aorta behind the atrioventricular groove.
        fill(levels, ellipse(left - p.wall - 17, base + 11, 7.5, 7.5), -6.0)
        fill(levels, ellipse(left - p.wall - 17, base + 11, 5.5, 5.5), SILENT)
        fill(levels, ellipse(left - 2, base + 0.5, 3.0, 3.0), -2.0)
        # Both faces of the septum reflect.
        line(levels, painting.part(painting.ring(self.epi - 0.5), lambda x, y: x > 4), -6.0, 2)
        return painting.finish(levels, painting.ring(self.endo), {3: atrium}, rng)

    def leaflets(self, contraction, opening):
        p = self.params
        left, right = self.annulus_x
        base = self.base_y - self.shortening * contraction
        mitral = leaflet_pair((left, base), (self.junction, base), 0.4, 0.12 + p.mitral_opening * opening)
        # The aortic valve is open while the ventricle ejects, that is, while the mitral valve is shut.
        ejecting = float(np.clip(contraction, 0, 1) ** 0.5 * max(1 - 5 * opening, 0))
        hinge = base + 3
        cusps = leaflet_pair((self.junction, hinge), (right, hinge), 0.5, -0.15 - 1.1 * ejecting)
        return mitral + cusps
