"""The DICOM files of a prediction: in the study of the file predicted from, whole or not at all.

ROW.sr.dcm   Structured Report (`report`)
ROW.seg.dcm  Segmentation of two frames (`segmentation`)

Both carry the source's patient and study, as they must; no name of a file and no message does.
"""

import collections
import logging
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from discovr_jax.data import read
from discovr_jax.data.io.video import Video, VideoError
from discovr_jax.dicom_output import report as report_lib
from discovr_jax.dicom_output import segmentation as segmentation_lib
from discovr_jax.dicom_output.algorithm import Algorithm
from discovr_jax.predictor import Prediction

COLUMN = "dicom"  # of the table: what was written for a row, or why not
REPORT, SEGMENTATION = ".sr.dcm", ".seg.dcm"
BOTH, NO_SEGMENTATION, NO_REPORT = "report and segmentation", "report, no segmentation: ", "no report: "
NOT_DICOM = f"{NO_REPORT}not a DICOM file"
_SERIES = {REPORT: 9001, SEGMENTATION: 9002}
# As what highdicom is shown the source: one image, and nobody's, so that no warning can repeat a name.
_STAND_IN = "1.2.840.10008.5.1.4.1.1.6.1"  # Ultrasound Image Storage
_NOBODY = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber")


class DicomError(ValueError):
    """DICOM files cannot be written; the message says what to do."""


def start(folder: pathlib.Path, begun: bool) -> None:
    """Make the folder, readable by its owner alone.

    Args:
      begun: it may hold files of an earlier try of the same command.

    Raises:
      DicomError: highdicom is missing, or files of something else are in the way.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError:
        raise DicomError("--dicom needs highdicom: pip install 'discovr_jax[dicom]'") from None
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not begun and any(folder.glob("*.dcm")):
        raise DicomError(f"--dicom={folder} holds DICOM files already: choose an empty folder, or remove them")


def write(
    folder: pathlib.Path, row: int, path: pathlib.Path, video: Video, flags: set[str],
    masks: Mapping[str, np.ndarray], prediction: Prediction, algorithm: Algorithm,
) -> str:  # fmt: skip
    """Write both files of a row; what an earlier try has written stays as it is.

    Args:
      path: the DICOM file; video, flags: as read from it.
      masks: {"ed": , "es": }, bool [H, W], of the file's frames.

    Returns:
      What was written, or why not, without a word of the header.
    """
    targets = {suffix: folder / f"{row:06d}{suffix}" for suffix in (REPORT, SEGMENTATION)}
    try:
        source = read.dicom_source(path)
    except VideoError:
        return f"{NO_REPORT}its patient and study cannot be read"
    missing = [name for name, value in source.references.items() if not value]
    if missing:
        return f"{NO_REPORT}its header lacks {', '.join(missing)}"
    problem = _unfit(source, video, flags, masks)
    if not targets[REPORT].exists():
        try:
            made = _make(targets[SEGMENTATION], source, video, {} if problem else masks, prediction, algorithm)
        except Exception as error:  # one odd header must not end a night's work, and its words could quote a name
            return f"{NO_REPORT}an error inside the program ({type(error).__name__})"
        for suffix, dataset in made.items():
            _save(dataset, targets[suffix])
    return f"{NO_SEGMENTATION}{problem}" if problem else BOTH


def count(table: pathlib.Path, folder: pathlib.Path) -> dict[str, int]:
    """{what was written, or why not: rows} of a finished table, most first.

    Raises:
      DicomError: files that the table names are not in the folder.
    """
    rows = pq.read_table(table, columns=["row", COLUMN]).to_pylist()
    wanted = [f"{row['row']:06d}{REPORT}" for row in rows if not row[COLUMN].startswith(NO_REPORT)]
    wanted += [f"{row['row']:06d}{SEGMENTATION}" for row in rows if row[COLUMN] == BOTH]
    lost = [name for name in wanted if not (folder / name).exists()]
    if lost:
        raise DicomError(
            f"--dicom={folder} lacks {len(lost)} of {len(wanted)} files that {table} names ({lost[0]}, ...): give the "
            "folder that they were written to, or predict again to another --output"
        )
    return dict(collections.Counter(row[COLUMN] for row in rows).most_common())


def _unfit(source, video: Video, flags: set[str], masks: Mapping[str, np.ndarray]) -> str:
    """Why outlines cannot lie on the source's frames, pixel on pixel; "" if they can."""
    if not masks:
        return "no outline was drawn"
    if video.rotation or "mirrored" in flags:
        return "its frames are shown turned"
    if any(mask.shape != (source.rows, source.columns) for mask in masks.values()):
        return "its frames have another size than its header says"
    resampled = video.file_frames is not None
    frames = 1 + int(video.file_frames.max()) if resampled else len(video.frames)
    if frames > source.num_frames or not resampled and frames < source.num_frames:
        return "it has another number of frames than its header says"
    return ""


def _make(
    path: pathlib.Path, source, video: Video, masks: Mapping[str, np.ndarray], prediction: Prediction,
    algorithm: Algorithm,
) -> dict[str, Any]:  # fmt: skip
    """{suffix: dataset}: the segmentation, if there are masks and `path` has none yet; then the report.

    In that order: a report says that all of a row is written.
    """
    import pydicom

    for name in ("pydicom", "highdicom"):  # what they log, like their warnings, quotes values
        logging.getLogger(name).setLevel(logging.CRITICAL)
    numbers = np.arange(len(video.frames)) if video.file_frames is None else video.file_frames
    frames = {phase: 1 + int(numbers[prediction.outlines[phase].frame]) for phase in masks}
    made: dict[str, Any] = {}
    with warnings.catch_warnings(action="ignore"):
        drawn = None
        if masks and path.exists():
            drawn = pydicom.dcmread(path, stop_before_pixels=True)
        elif masks:
            image = _stand_in(source)
            drawn = segmentation_lib.segmentation(image, masks, frames, algorithm, _SERIES[SEGMENTATION])
            made[SEGMENTATION] = _finish(drawn, source)
        image = _stand_in(source)  # another, as highdicom's objects share elements with what they are given
        report = report_lib.report(image, drawn, frames, prediction, algorithm, _SERIES[REPORT])
        made[REPORT] = _finish(report, source)
    return made


def _stand_in(source) -> Any:
    """A header with the source's references and no names."""
    import pydicom

    image = pydicom.Dataset()
    for name, value in {**dict.fromkeys(_NOBODY, ""), **source.references, **source.lossy}.items():
        setattr(image, name, value)
    image.StudyDate = image.StudyTime = None
    image.SOPClassUID, image.Modality = _STAND_IN, "US"
    image.Rows, image.Columns = source.rows, source.columns
    return image


def _finish(dataset, source) -> Any:
    """With the source's class where the stand-in's is, and its patient and study where nobody's are."""
    for element in dataset.iterall():
        if element.keyword == "ReferencedSOPClassUID" and element.value == _STAND_IN:
            element.value = source.references["SOPClassUID"]
    for name, value in source.identity.items():
        setattr(dataset, name, value)
    return dataset


def _save(dataset, path: pathlib.Path) -> None:
    """Whole or not at all, readable by its owner alone."""
    temporary = path.with_name(f".{path.name}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file, warnings.catch_warnings(action="ignore"):
        dataset.save_as(file, enforce_file_format=True)
    os.replace(temporary, path)
