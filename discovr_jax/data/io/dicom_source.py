"""What a DICOM file must say of itself for other objects to belong to its patient and study and to refer to its frames.

Unlike the reader of pixels (`dicom`), this one reads names. It is called for `predict --dicom` alone.
"""

import dataclasses
import logging
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import pydicom

from discovr_jax.data.io import dicom_values
from discovr_jax.data.io.video import VideoError

# What another object refers to; Type 1 in every image.
REFERENCES = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
# Patient and study as an archive tells them apart: Type 2 of the modules Patient and General Study (PS3.3 C.7.1.1,
# C.7.2.1). Nothing else of these modules is taken: no comments, no other ids, no address.
IDENTITY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
# Taken where they are there: an id is unique only with its issuer; and what says that names were removed.
OPTIONAL = ("IssuerOfPatientID", "PatientIdentityRemoved", "DeidentificationMethod")
_CODES = "DeidentificationMethodCodeSequence"
_CODE = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
# An image made from one that lost information says so too (PS3.3 C.7.6.1.1.5).
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
# In the file's meta information too, where a damaged header has lost them.
_IN_META = {"SOPInstanceUID": "MediaStorageSOPInstanceUID", "SOPClassUID": "MediaStorageSOPClassUID"}
_SIZES = ("Rows", "Columns", "NumberOfFrames")


@dataclasses.dataclass(frozen=True)
class Source:
    """Of one object. It holds names: its fields must not be printed, logged or written anywhere but in DICOM files.

    Attributes:
      references: of `REFERENCES`, "" where the header lacks one.
      identity: {keyword: value}, decoded text as it stands in the file, well-formed or not. All of `IDENTITY`, "" where
        the header has none; of the others what it has.
      lossy: the same of what it says of lossy compression.
      rows, columns, num_frames: 0 where the header does not say.
    """

    references: Mapping[str, str]
    identity: Mapping[str, Any]
    lossy: Mapping[str, Any]
    rows: int
    columns: int
    num_frames: int

    def __repr__(self) -> str:
        return f"Source of {self.num_frames} frames of {self.rows} x {self.columns}"


def read_source(path: pathlib.Path) -> Source:
    """Reads the header of an object whose pixels have been read.

    Raises:
      VideoError: it cannot be read; the message quotes nothing of it.
    """
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # what it logs, like its warnings, quotes values
    tags = [*REFERENCES, *IDENTITY, *OPTIONAL, _CODES, *_LOSSY, *_SIZES]
    with warnings.catch_warnings(action="ignore"):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
            references = {name: _text(header, name) for name in REFERENCES}
            for name, other in _IN_META.items():
                references[name] = references[name] or _text(header.file_meta, other)
            identity: dict[str, Any] = {name: _text(header, name) for name in IDENTITY}
            identity |= {name: value for name in OPTIONAL if (value := _text(header, name))}
            if codes := _codes(header):
                identity[_CODES] = codes
            lossy = {name: value for name in _LOSSY if (value := _text(header, name))}
            rows, columns, frames = (int((dicom_values.numbers(header, name) or [0])[0]) for name in _SIZES)
        except Exception as error:  # whatever it is, its words could quote a name
            raise VideoError(f"{path}: patient and study cannot be read ({type(error).__name__}).") from None
    return Source(references, identity, lossy, rows, columns, frames)


def _text(dataset, name: str) -> str:
    """An element's text, its values joined as in the file; "" if it is absent, empty or cannot be read."""
    try:
        value = dataset.get(name)
        items = value if isinstance(value, pydicom.multival.MultiValue) else [value]
        return "\\".join("" if item is None else str(item) for item in items)
    except dicom_values.BAD_VALUE:
        return ""


def _codes(header) -> list[pydicom.Dataset]:
    """Items of the codes of the ways in which names were removed, with what a code has to have."""
    codes = []
    for item in header.get(_CODES) or []:
        code = pydicom.Dataset()
        for name in _CODE:
            setattr(code, name, _text(item, name))
        codes.append(code)
    return codes
