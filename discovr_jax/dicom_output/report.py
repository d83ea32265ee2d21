"""A prediction as a DICOM Structured Report; `files` says whose it is.

Template TID 1500 in a Comprehensive SR, which highdicom reads, and of viewers OHIF no other. The templates of
echocardiography have no place for what makes a prediction more than a number: TID 5300 allows its standard measurements
no modifiers (PS3.17 CCCC.1), and neither it nor TID 5200 a reference to a segment. Their codes are used (CID 12200).
"""

import math
from collections.abc import Mapping
from typing import Any

from discovr_jax.dicom_output.algorithm import MANUFACTURER, MODEL, Algorithm
from discovr_jax.dicom_output.segmentation import name_of
from discovr_jax.evaluation import interface
from discovr_jax.evaluation.fitted_heads import RESEARCH_USE
from discovr_jax.predictor import PHASES, Measurement, Prediction

# Codes (value, scheme, meaning). Private ones mean what they say; longer than 16 characters, older readers lose them.
SCHEME = "99DISCOVR"
# LOINC codes of CID 12200, "Echocardiography Left Ventricle"; where it has none SNOMED CT's, with the site.
CODES = {
    "ef": ("18043-0", "LN", "Left Ventricular Ejection Fraction by US"),
    "rvef": ("70822001", "SCT", "Cardiac ejection fraction"),
    "edv": ("18026-5", "LN", "Left Ventricular End Diastolic Volume"),
    "esv": ("18148-7", "LN", "Left Ventricular End Systolic Volume"),
    "ivsd": ("18154-5", "LN", "Interventricular Septum Diastolic Thickness"),
    "lvidd": ("29436-3", "LN", "Left Ventricle Internal End Diastolic Dimension"),
    "lvpwd": ("18152-9", "LN", "Left Ventricle Posterior Wall Diastolic Thickness"),
}
_SITES = {"rvef": ("53085002", "SCT", "Right ventricle")}
_LEFT_VENTRICLE = ("87878005", "SCT", "Left ventricle")
_UNITS = {"%": ("%", "UCUM", "Percent"), "mL": ("mL", "UCUM", "Milliliter"), "cm": ("cm", "UCUM", "Centimeter")}
_NO_UNITS = ("1", "UCUM", "no units")
_SCORES = {
    "probability_abnormal": ("probability", SCHEME, "Probability of abnormal"),
    "neighbour_vote": ("neighbour_vote", SCHEME, "Share of the nearest training videos that is abnormal"),
    "anomaly_score": ("anomaly_score", SCHEME, "Distance to normal training videos"),
    "anomaly_threshold": ("anomaly_limit", SCHEME, "Distance that 95 % of normal videos do not exceed"),
}
OUT_OF_DISTRIBUTION = ("unlike_training", SCHEME, "Unlike the training videos")
_METHOD = ("regression", SCHEME, "Regression on features of a video encoder")
_ABOVE = ("371886008", "SCT", "+, range of upper measurement uncertainty")
_BELOW = ("371885007", "SCT", "-, range of lower measurement uncertainty")
_YES, _NO = ("373066001", "SCT", "Yes"), ("373067005", "SCT", "No")
_CYCLE_PHASE = ("246092007", "SCT", "Cardiac cycle phase")
_PHASE_CODES = {"ed": ("416190007", "SCT", "End diastole"), "es": ("416430001", "SCT", "End Systole")}
_COMMENT = ("121106", "DCM", "Comment")


def report(image, drawn, frames: Mapping[str, int], prediction: Prediction, algorithm: Algorithm, series: int) -> Any:
    """The report of one video: numbers with their intervals, scores, flags, and which frames are outlined where.

    Args:
      image: header of the source; drawn: of its segmentation, None without one.
      frames: {"ed": , "es": }, of the source, from 1, that the segmentation outlines.
      series: its number.

    Returns:
      `highdicom.sr.ComprehensiveSR`: complete, preliminary, not verified.
    """
    import highdicom as hd
    from highdicom.coding_schemes import CodingSchemeIdentificationItem
    from pydicom.sr.codedict import codes

    identification = hd.sr.AlgorithmIdentification(
        MODEL,
        algorithm.version,
        parameters=[f"{name}={value}" for name, value in algorithm.settings.items()],
        family=codes.DCM.ArtificialIntelligence,
        manufacturer=MANUFACTURER,
    )
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=f"2.25.{int(algorithm.sha256[:32], 16)}",
        name=MODEL,
        manufacturer_name=MANUFACTURER,
        serial_number=algorithm.sha256[:16],
    )
    groups = [_of_video(image, prediction, algorithm, identification)]
    if drawn is not None:
        groups += [_of_frame(image, drawn, phase, frames[phase], identification) for phase in PHASES]
    content = hd.sr.MeasurementReport(
        hd.sr.ObservationContext(hd.sr.ObserverContext(codes.DCM.Device, device)),
        procedure_reported=codes.SCT.Echocardiography,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    return hd.sr.ComprehensiveSR(
        evidence=[image] if drawn is None else [image, drawn],
        content=content[0],
        series_instance_uid=hd.UID(),
        series_number=series,
        sop_instance_uid=hd.UID(),
        is_complete=True,
        coding_schemes=[
            CodingSchemeIdentificationItem(
                SCHEME, name="Private codes of discovr_jax", responsible_organization=MANUFACTURER
            )
        ],
        **algorithm.equipment(),
    )


def remarks(prediction: Prediction, algorithm: Algorithm) -> list[str]:
    """What the report says in words."""
    lines = [RESEARCH_USE]
    if prediction.out_of_distribution:
        lines.append(f"Out of distribution: {'; '.join(prediction.reasons)}.")
        if not _numbers(prediction):
            return [*lines, "Numbers are withheld."]
        lines.append("Numbers are shown because that was asked for.")
    for part, one in prediction.measurements.items():
        if math.isfinite(one.low):
            name, unit, _ = interface.MEASUREMENTS[one.field]
            interval = f"{one.low:.3g} to {one.high:.3g}, {algorithm.interval}"
            lines.append(f"{part}: {name} {one.value:.3g} {unit}, {interval}.")
        elif math.isfinite(one.value):
            lines.append(f"{part}: no prediction interval, as there were too few validation videos.")
    if math.isfinite(prediction.probability_abnormal):
        lines.append(f"Abnormal means: {algorithm.abnormal}.")
    return lines


def _numbers(prediction: Prediction) -> dict[str, float]:
    """All that is known of a prediction's measurements and scores."""
    values = {part: one.value for part, one in prediction.measurements.items()}
    values |= {name: getattr(prediction, name) for name in _SCORES if name != "anomaly_threshold"}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _of_video(image, prediction: Prediction, algorithm: Algorithm, identification) -> Any:
    """The group of what is said of the whole video."""
    import highdicom as hd

    known = _numbers(prediction)
    measurements = [_measurement(one) for part, one in prediction.measurements.items() if part in known]
    for name, code in _SCORES.items():
        if name in known or name == "anomaly_threshold" and "anomaly_score" in known:
            measurements.append(hd.sr.Measurement(_code(code), float(getattr(prediction, name)), _code(_NO_UNITS)))
    unlike = _YES if prediction.out_of_distribution else _NO
    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        hd.sr.TrackingIdentifier(hd.UID(), "Whole clip"),
        algorithm_id=identification,
        measurements=measurements,
        qualitative_evaluations=[hd.sr.QualitativeEvaluation(_code(OUT_OF_DISTRIBUTION), _code(unlike))],
        source_images=[hd.sr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID)],
    )
    for line in remarks(prediction, algorithm):
        text = hd.sr.TextContentItem(_code(_COMMENT), line, hd.sr.RelationshipTypeValues.CONTAINS)
        group[0].ContentSequence.append(text)
    return group


def _measurement(one: Measurement) -> Any:
    """A number with its unit, method, and the half widths of its interval (TID 310, CID 225) where that is finite."""
    import highdicom as hd

    unit, properties = _code(_UNITS[one.unit]), hd.sr.MeasurementProperties()
    if math.isfinite(one.low) and math.isfinite(one.high):
        for name, width in ((_ABOVE, one.high - one.value), (_BELOW, one.value - one.low)):
            # highdicom's own argument would say "no units".
            properties.append(
                hd.sr.NumContentItem(_code(name), float(width), unit, None, hd.sr.RelationshipTypeValues.HAS_PROPERTIES)
            )
    sites = [hd.sr.FindingSite(_code(_SITES[one.field]))] if one.field in _SITES else None
    return hd.sr.Measurement(
        _code(CODES[one.field]), float(one.value), unit, finding_sites=sites, method=_code(_METHOD),
        properties=properties,
    )  # fmt: skip


def _of_frame(image, drawn, phase: str, frame: int, identification) -> Any:
    """The group of an outlined frame: its segment in the segmentation, and the source's frame."""
    import highdicom as hd

    segment = drawn.SegmentSequence[[*PHASES].index(phase)]
    number = int(segment.SegmentNumber)  # which is its frame's too
    referenced = hd.sr.ReferencedSegmentationFrame(
        drawn.SOPClassUID,
        drawn.SOPInstanceUID,
        frame_number=number,
        segment_number=number,
        source_image=hd.sr.SourceImageForSegmentation(image.SOPClassUID, image.SOPInstanceUID, [frame]),
    )
    # highdicom writes both; the standard allows one (PS3.3, table 10-3), and a frame has one segment.
    del referenced[0].ReferencedSOPSequence[0].ReferencedSegmentNumber
    return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        hd.sr.TrackingIdentifier(segment.TrackingUID, name_of(phase)),
        referenced_segment=referenced,
        finding_type=_code(_LEFT_VENTRICLE),
        algorithm_id=identification,
        qualitative_evaluations=[hd.sr.QualitativeEvaluation(_code(_CYCLE_PHASE), _code(_PHASE_CODES[phase]))],
    )


def _code(code: tuple[str, str, str]) -> Any:
    import highdicom as hd

    value, scheme, meaning = code
    return hd.sr.CodedConcept(value, scheme, meaning)
