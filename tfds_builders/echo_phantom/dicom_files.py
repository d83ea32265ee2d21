"""Writes multi-frame ultrasound DICOM, as scanners do. The patient in its header is invented."""

import io
from pathlib import Path

import numpy as np

KINDS = ("RGB", "YBR_FULL_422", "MONOCHROME2")
PATIENT_NAME, PATIENT_ID = "Phantom^Simulated", "PHANTOM-0001"


def write_dicom(
    path: Path, frames: np.ndarray, kind: str, fps: float, heart_rate: float, spacing: float, box: tuple
) -> None:
    """Writes frames as Ultrasound Multi-frame Image Storage; the same bytes at each call.

    Args:
      path: the file; its name makes the UIDs.
      frames: uint8 [T, H, W, 3], RGB.
      kind: of `KINDS`: RGB deflated, YBR_FULL_422 as JPEG baseline, MONOCHROME2 uncompressed (luma).
      fps: frames per second.
      heart_rate: per minute.
      spacing: mm per pixel inside the sector.
      box: top, left, bottom, right of the calibrated region, the last two exclusive.
    """
    import pydicom
    from pydicom.uid import (
        DeflatedExplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        JPEGBaseline8Bit,
        UltrasoundMultiFrameImageStorage,
        generate_uid,
    )

    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.SOPClassUID = UltrasoundMultiFrameImageStorage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[path.stem])
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=[path.stem, "study"])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[path.stem, "series"])
    dataset.Modality = "US"
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = PATIENT_NAME, PATIENT_ID, "19700101"
    dataset.FrameTime, dataset.FrameIncrementPointer = f"{1000 / fps:.6g}", pydicom.tag.Tag("FrameTime")
    dataset.RecommendedDisplayFrameRate, dataset.HeartRate = round(fps), round(heart_rate)
    dataset.SequenceOfUltrasoundRegions = [_region(box, spacing)]
    count, dataset.Rows, dataset.Columns = frames.shape[:3]
    dataset.NumberOfFrames = count
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PhotometricInterpretation = kind
    dataset.SamplesPerPixel = 1 if kind == "MONOCHROME2" else 3
    if kind == "MONOCHROME2":
        syntax = ExplicitVRLittleEndian
        dataset.PixelData = np.rint(frames @ np.array([0.299, 0.587, 0.114])).astype(np.uint8).tobytes()
    elif kind == "RGB":
        syntax, dataset.PlanarConfiguration = DeflatedExplicitVRLittleEndian, 0
        dataset.PixelData = frames.tobytes()
    else:
        syntax, dataset.PlanarConfiguration = JPEGBaseline8Bit, 0
        dataset.PixelData = pydicom.encaps.encapsulate([_jpeg(frame) for frame in frames])
        dataset.LossyImageCompression = "01"
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path, enforce_file_format=True)


def _jpeg(frame: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=92, subsampling="4:2:2")
    return buffer.getvalue()


def _region(box: tuple, spacing: float):
    """The calibrated region: two-dimensional tissue, its pixels in cm."""
    import pydicom

    region = pydicom.Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 2
    top, left, bottom, right = (int(edge) for edge in box)
    region.RegionLocationMinX0, region.RegionLocationMinY0 = left, top
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = right - 1, bottom - 1
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX = region.PhysicalDeltaY = spacing / 10
    return region
