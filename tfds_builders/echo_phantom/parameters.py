"""What is drawn for one simulated heart, and from which distributions.

Everything except the wall motion is drawn without looking at the ejection fraction, so that
neither the look of a clip nor its size, length or rhythm tells the EF.
"""

import dataclasses

import numpy as np

from tfds_builders.echo_phantom.rhythm import Beat, draw_beats

MIN_EF, MAX_EF = 15.0, 75.0
ORIGIN = 0.58  # where on the long axis the LV centre lies, 0 apex to 1 mitral plane


@dataclasses.dataclass(frozen=True)
class Region:
    """A stretch of the wall that moves less (depth > 0) or more (depth < 0) than the rest."""

    angle: float  # radians, image convention around the LV centre (0 lateral, pi septal, -pi/2 apex)
    depth: float  # fraction of the motion that is missing at the middle
    spread: float  # radians, standard deviation


@dataclasses.dataclass(frozen=True)
class Shadow:
    """A beam direction in which something close to the probe swallows sound."""

    angle: float  # radians from the sector's axis
    width: float  # radians, standard deviation
    loss_db: float
    begins: float  # range in pixels


@dataclasses.dataclass(frozen=True)
class HeartParameters:
    """One simulated examination. Lengths are pixels of the 112 x 112 image, angles radians, levels dB."""

    seed: int  # of the speckle, the noise and the slow random motions
    ef: float  # percent, of a beat of strength 1, such as the labelled one
    # Recording
    fps: float
    num_frames: int
    mm_per_pixel: float
    # Rhythm
    heart_rate: float  # per minute
    rhythm: str  # sinus | irregular | ectopic
    phase: float  # of the beat at frame 0, 0 to 1
    systole: float  # seconds it lasts in a beat of one second
    beats: tuple[Beat, ...]
    early_filling: float  # contraction that is left when rapid filling ends
    # Left ventricle at end-diastole
    length: float  # apex to mitral plane
    half_width: float
    septal_width: float  # of the septal half, relative to half_width
    base_width: float  # of the mitral annulus, relative to half_width
    roundness: float  # exponent of the apical profile
    wall: float
    longitudinal: float  # share of the usual long-axis shortening at this EF
    regions: tuple[Region, ...]
    # The other chambers, which move by amplitudes of their own
    rv_width: float
    rv_longitudinal: float
    rv_radial: float
    la_length: float
    la_motion: float
    ra_motion: float
    mitral_opening: float  # radians
    tricuspid_opening: float
    # Where the heart lies in the image, and how that changes
    centre: tuple[float, float]  # x, y of the LV centre
    tilt: float
    drift: tuple[float, float]  # pixels over the clip, x and y
    drift_rotation: float
    wander: float  # pixels, slow random motion of the hand
    wander_rotation: float
    respiration: tuple[float, float, float]  # pixels, seconds, phase 0 to 1
    swing: tuple[float, float, float]  # x, y, rotation: rocking of the whole heart in each beat
    # The picture
    tip: tuple[float, float]
    half_angle: float
    reach: float
    gain: float
    dynamic_range: float
    slope: float  # dB per pixel of range that the TGC leaves uncorrected
    tgc: tuple[float, ...]  # errors of the TGC sliders
    flicker: float
    noise: float
    blood: float
    contrast: float  # of the surroundings relative to the myocardium
    clutter: float
    decorrelation: float  # radians per square-root second of the out-of-plane speckle
    through_plane: float  # radians by which the out-of-plane motion of each beat turns the speckle
    shadows: tuple[Shadow, ...]


def draw_ef(rng: np.random.Generator) -> float:
    """An EF in percent: mostly normal around 61, about three in ten below 50."""
    ef = rng.uniform(15, 56) if rng.random() < 0.3 else rng.normal(61, 6)
    return float(np.clip(ef, MIN_EF, MAX_EF))


def draw_heart(rng: np.random.Generator) -> HeartParameters:
    """Draws one examination; all but `ef` has a distribution that does not depend on it.

    >>> heart = draw_heart(np.random.default_rng(0))
    >>> MIN_EF <= heart.ef <= MAX_EF and heart.num_frames > 1
    True
    """
    ef = draw_ef(rng)
    heart_rate = float(np.clip(rng.normal(72, 15), 45, 120))
    fps = 50.0 if rng.random() < 0.6 else float(np.round(rng.uniform(30, 70), 1))
    seconds = 1.9 * 60 / heart_rate  # at least one whole systole, wherever frame 0 falls
    num_frames = int(max(rng.integers(90, 201), np.ceil(seconds * fps)))
    rhythm = str(rng.choice(["sinus", "irregular", "ectopic"], p=[0.7, 0.15, 0.15]))
    phase = float(rng.random())
    systole = float(rng.uniform(0.26, 0.38))
    length = rng.uniform(46, 66)
    tip = (float(rng.normal(56, 1.5)), float(rng.uniform(3, 9)))
    centre, tilt = _draw_place(rng, tip, length)
    return HeartParameters(
        seed=int(rng.integers(2**31)),
        ef=ef,
        fps=fps,
        num_frames=num_frames,
        mm_per_pixel=float(rng.uniform(1.25, 1.6)),
        heart_rate=heart_rate,
        rhythm=rhythm,
        phase=phase,
        systole=systole,
        beats=draw_beats(rng, heart_rate, phase, rhythm, num_frames / fps, systole),
        early_filling=float(rng.uniform(0.1, 0.65)),
        length=float(length),
        half_width=float(length * rng.uniform(0.29, 0.40)),
        septal_width=float(rng.uniform(0.8, 1.0)),
        base_width=float(rng.uniform(0.68, 0.88)),
        roundness=float(rng.uniform(1.8, 2.6)),
        wall=float(rng.uniform(4.0, 8.5)),
        longitudinal=float(rng.uniform(0.5, 1.35)),
        regions=_draw_regions(rng),
        rv_width=float(rng.uniform(0.7, 1.25)),
        rv_longitudinal=float(rng.uniform(2.0, 13.0)),
        rv_radial=float(rng.uniform(0.5, 6.0)),
        la_length=float(rng.uniform(22, 36)),
        la_motion=float(rng.uniform(0.0, 0.28)),
        ra_motion=float(rng.uniform(0.0, 0.3)),
        mitral_opening=float(rng.uniform(0.6, 1.25)),
        tricuspid_opening=float(rng.uniform(0.5, 1.2)),
        centre=centre,
        tilt=tilt,
        drift=tuple(rng.normal(0, 2.0, 2).tolist()),
        drift_rotation=float(np.deg2rad(rng.normal(0, 2.5))),
        wander=float(rng.uniform(0.2, 1.5)),
        wander_rotation=float(np.deg2rad(rng.uniform(0.2, 2.0))),
        respiration=(float(rng.uniform(0, 3.0)), float(rng.uniform(2.5, 5.0)), float(rng.random())),
        swing=(float(rng.normal(0, 2)), float(rng.normal(0, 2)), float(np.deg2rad(rng.normal(0, 4)))),
        tip=tip,
        half_angle=float(np.deg2rad(rng.uniform(38, 46))),
        reach=float(rng.uniform(100, 122)),
        gain=float(rng.normal(0, 3)),
        dynamic_range=float(rng.uniform(38, 52)),
        slope=float(rng.normal(-0.02, 0.05)),
        tgc=tuple(rng.normal(0, 2.0, 6).tolist()),
        flicker=float(rng.uniform(0.1, 1.2)),
        noise=float(rng.uniform(-62, -42)),
        blood=float(rng.uniform(-56, -38)),
        contrast=float(rng.uniform(-14, 2)),
        clutter=float(rng.uniform(-44, -18)),
        decorrelation=float(rng.uniform(0.2, 1.5)),
        through_plane=float(rng.uniform(0.0, 1.2)),
        shadows=_draw_shadows(rng),
    )


def _draw_place(rng, tip, length) -> tuple[tuple[float, float], float]:
    """The LV centre and the tilt of its axis: apex near the probe, cavity mostly inside the sector."""
    while True:
        tilt = float(np.deg2rad(rng.normal(-3, 10)))
        apex = tip[0] + rng.normal(4, 6), tip[1] + rng.uniform(6, 22)
        down = ORIGIN * length
        x, y = apex[0] - down * np.sin(tilt), apex[1] + down * np.cos(tilt)
        if abs(np.arctan2(x - tip[0], y - tip[1])) < 0.35:
            return (float(x), float(y)), tilt


def _draw_regions(rng) -> tuple[Region, ...]:
    """Mild variation around the whole wall; in four of ten hearts one region that hardly moves."""
    regions = [
        Region(float(rng.uniform(-np.pi, np.pi)), float(rng.normal(0, 0.2)), float(rng.uniform(0.3, 0.8)))
        for _ in range(3)
    ]
    if rng.random() < 0.4:
        wall = rng.choice([-np.pi, -0.75 * np.pi, -0.5 * np.pi, -0.25 * np.pi, 0.0])
        angle = float(wall + rng.normal(0, 0.2))
        regions.append(Region(angle, float(rng.uniform(0.4, 0.95)), float(rng.uniform(0.3, 0.6))))
    return tuple(regions)


def _draw_shadows(rng) -> tuple[Shadow, ...]:
    return tuple(
        Shadow(
            angle=float(rng.uniform(-0.8, 0.8)),
            width=float(rng.uniform(0.03, 0.15)),
            loss_db=float(rng.uniform(4, 22)),
            begins=float(rng.uniform(5, 45)),
        )
        for _ in range(rng.integers(0, 4))
    )
