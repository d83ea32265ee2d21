"""The views that are simulated: who draws a heart for each, and what shows it."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tfds_builders.echo_phantom import apical, long_axis, short_axis, ventricle
from tfds_builders.echo_phantom.files import Job
from tfds_builders.echo_phantom.parameters import HeartParameters, draw_heart


class View(NamedTuple):
    """`draw(rng)` draws the parameters from which `heart(parameters)` is built."""

    draw: Callable[[np.random.Generator], HeartParameters]
    heart: type[ventricle.Ventricle]


VIEWS = {
    "A4C": View(draw_heart, apical.FourChamber),
    "A2C": View(draw_heart, apical.TwoChamber),
    "PSAX": View(short_axis.draw_short_axis, short_axis.ShortAxis),
    "PLAX": View(long_axis.draw_long_axis, long_axis.LongAxis),
}


def draw_patient(job: Job) -> HeartParameters:
    """Parameters of one clip of a patient: all clips show the same heart in strength, the rest is the clip's own."""
    patient = draw_heart(job.rng())
    clip = VIEWS[job.view].draw(job.rng(1 + job.clip))
    return dataclasses.replace(clip, ef=patient.ef, longitudinal=patient.longitudinal)
