import struct

import nibabel
import numpy as np
import pytest

from discovr_jax.data.io.nifti import read_nifti
from discovr_jax.data.io.video import VideoError


def write(path, array, zooms, unit="mm", slope=None):
    image = nibabel.Nifti1Image(array, np.eye(4))
    image.header.set_zooms(zooms)
    image.header.set_xyzt_units(unit)
    if slope:
        image.header.set_slope_inter(slope, 0)
    nibabel.save(image, path)
    return path


def test_across_down_time_becomes_time_down_across(tmp_path):
    array = np.zeros((5, 3, 2), np.uint8)  # 5 across, 3 down, 2 in time
    array[4, 0, 1] = 9  # top right corner of the second picture
    frames, spacing = read_nifti(write(tmp_path / "a.nii.gz", array, (0.5, 0.25, 1)))
    assert frames.shape == (2, 3, 5) and frames.dtype == np.uint8
    assert frames[1, 0, 4] == 9 and frames.sum() == 9
    assert spacing == (0.25, 0.5)


@pytest.mark.parametrize("shape, frames", [((5, 3), 1), ((5, 3, 1), 1), ((5, 3, 4), 4), ((5, 3, 1, 4), 4)])
def test_dimensions_of_one(tmp_path, shape, frames):
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    found, _ = read_nifti(write(tmp_path / "a.nii", array, (1,) * len(shape)))
    assert found.shape == (frames, 3, 5) and found[0, 2, 1] == array[(1, 2) + (0,) * (len(shape) - 2)]


def test_units_are_millimetres(tmp_path):
    array = np.zeros((2, 2), np.uint8)
    for unit, expected in (("meter", 300), ("micron", 0.0003), ("unknown", 0.3)):
        assert read_nifti(write(tmp_path / "a.nii", array, (0.3, 0.3), unit))[1] == pytest.approx((expected,) * 2)


@pytest.mark.parametrize("kind,place,code", [(nibabel.Nifti1Image, 80, "<f"), (nibabel.Nifti2Image, 112, "<d")])
def test_a_voxel_size_of_nothing_is_not_one_millimetre(tmp_path, kind, place, code):
    """As nibabel would have it."""
    image = kind(np.zeros((4, 4), np.uint8), np.eye(4))
    image.header.set_zooms((0.5, 0.25))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    assert struct.unpack_from(code, data, place) == (0.5,)
    for value in (0.0, -0.5):
        struct.pack_into(code, data, place, value)
        (tmp_path / "a.nii").write_bytes(data)
        assert read_nifti(tmp_path / "a.nii")[1] == (0.25, abs(value))


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(VideoError, match=r"none\.nii: no such file"):
        read_nifti(tmp_path / "none.nii")
    volume = write(tmp_path / "volume.nii", np.zeros((4, 4, 3, 2), np.uint8), (1, 1, 1, 1))
    with pytest.raises(VideoError, match=r"volume\.nii: an image of shape \(4, 4, 3, 2\)"):
        read_nifti(volume)
    good = write(tmp_path / "good.nii.gz", np.random.default_rng(0).integers(0, 255, (40, 40, 9), np.uint8), (1, 1, 1))
    for name, data in (("cut.nii.gz", good.read_bytes()[:-3000]), ("text.nii.gz", b"text"), ("empty.nii.gz", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(VideoError, match=f"{name}: not a readable NIfTI"):
            read_nifti(tmp_path / name)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_an_axis_of_nothing_is_damage(tmp_path, axis):
    data = bytearray(write(tmp_path / "a.nii", np.zeros((40, 40, 9), np.uint8), (1, 1, 1)).read_bytes())
    struct.pack_into("<h", data, 40 + 2 * axis, 0)  # dim[axis]
    (tmp_path / "a.nii").write_bytes(data)
    with pytest.raises(VideoError, match=r"a\.nii: an image of shape .* is empty; its header is damaged"):
        read_nifti(tmp_path / "a.nii")
