"""Outlines of the left ventricle as a DICOM Segmentation; `files` says whose it is."""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from discovr_jax.dicom_output.algorithm import MANUFACTURER, MODEL, Algorithm
from discovr_jax.predictor import PHASES

_EXTREME = {"ed": "largest", "es": "smallest"}


def segmentation(
    image, masks: Mapping[str, np.ndarray], frames: Mapping[str, int], algorithm: Algorithm, series: int
) -> Any:
    """Both outlines: segment and frame 1 at end-diastole, 2 at end-systole.

    Ultrasound has no frame of reference. A frame of a segmentation then lies on the frame that it is derived from,
    pixel on pixel (PS3.3 A.51.5), and which that is stands in its Derivation Image functional group. highdicom makes
    such objects of single images only, so it is given one, and the frame numbers are added here.

    Args:
      image: header of the source, as of a single image.
      masks: {"ed": , "es": }, bool [H, W], of the source's frames; frames: their numbers in the source, from 1.
      series: its number.

    Returns:
      `highdicom.seg.Segmentation`.
    """
    import highdicom as hd

    made = hd.seg.Segmentation(
        [image],
        np.stack([masks[phase] for phase in PHASES], axis=-1)[None].astype(np.uint8),
        hd.seg.SegmentationTypeValues.BINARY,
        [_description(number, phase, frames[phase], algorithm) for number, phase in enumerate(PHASES, 1)],
        series_instance_uid=hd.UID(),
        series_number=series,
        sop_instance_uid=hd.UID(),
        content_label="LV_CAVITY",
        content_description="Left ventricular cavity at end-diastole and end-systole",
        omit_empty_frames=False,
        **algorithm.equipment(),
    )
    made.PatientOrientation = None  # Type 2C: where there is no position in the patient it is there, if unknown empty
    for groups, phase in zip(made.PerFrameFunctionalGroupsSequence, PHASES, strict=True):
        groups.DerivationImageSequence = copy.deepcopy(groups.DerivationImageSequence)  # the frames share one
        (derivation,) = groups.DerivationImageSequence
        (derived_from,) = derivation.SourceImageSequence
        derived_from.ReferencedFrameNumber = frames[phase]
    return made


def name_of(phase: str) -> str:
    """What a segment is called, and its group in the report."""
    return f"Left ventricular cavity, {PHASES[phase]}"


def _description(number: int, phase: str, frame: int, algorithm: Algorithm) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    identification = hd.AlgorithmIdentificationSequence(
        name=MODEL,
        family=codes.DCM.ArtificialIntelligence,
        version=algorithm.version,
        source=MANUFACTURER,
        parameters=algorithm.settings,
    )
    description = hd.seg.SegmentDescription(
        number,
        name_of(phase),
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=codes.SCT.LeftVentricle,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=identification,
        tracking_uid=hd.UID(),
        tracking_id=name_of(phase),
    )
    description.SegmentDescription = f"The cavity where it is predicted to be {_EXTREME[phase]}, in frame {frame}"
    return description
