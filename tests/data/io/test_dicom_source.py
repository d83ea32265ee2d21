"""Of whom an object is and what refers to it: as it stands in the file, decoded, and never printed."""

import pytest

from discovr_jax.data import read
from discovr_jax.data.io import dicom_source
from discovr_jax.data.io.video import VideoError
from tests.test_privacy import NAME, screen, write_dicom

pydicom = pytest.importorskip("pydicom", reason="reading DICOM needs pydicom")


def test_what_is_read_and_what_is_not(tmp_path):
    write_dicom(tmp_path / "a", screen(0, "x"), SpecificCharacterSet="ISO_IR 100", PatientName="Müller^J", StudyID=None)
    source = read.dicom_source(tmp_path / "a")
    assert source.identity["PatientName"] == "Müller^J" and source.identity["StudyID"] == ""
    assert source.identity.keys() == set(dicom_source.IDENTITY)
    assert source.references["SOPClassUID"] == pydicom.uid.UltrasoundMultiFrameImageStorage
    assert (source.rows, source.columns, source.num_frames) == (150, 200, 8)
    assert "ller" not in repr(source) and "90210777" not in f"{source}"


def test_an_example_of_pydicoms():
    source = read.dicom_source(pydicom.examples.get_path("ybr_color"))
    assert source.identity["PatientID"] == "204" and len(source.references) == 4
    assert source.lossy == {"LossyImageCompression": "01", "LossyImageCompressionRatio": "19"}


def test_what_cannot_be_read_is_an_error_that_quotes_nothing(tmp_path):
    (tmp_path / "a").write_text(NAME * 99)
    with pytest.raises(VideoError, match="cannot be read") as error:
        read.dicom_source(tmp_path / "a")
    assert "uillfeather" not in str(error.value)
