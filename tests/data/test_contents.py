"""Files that are not what their names say: the message says what they are, and the remedy is one for that."""

import gzip
import io
import zipfile

import numpy as np
import pytest

from discovr_jax.data import contents, read
from discovr_jax.data.io.video import VideoError
from tests.builder_case import moving_square, write_video


def archive(name):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr(name, "x" * 100)
    return out.getvalue()


OTHER = {  # content, what it is said to be, and the remedy
    "zip": (archive("IM0001"), "a ZIP archive", "unpack it"),
    "arrays": (archive("frames.npy"), "an archive of NumPy arrays", "rename it to .npz"),
    "workbook": (archive("[Content_Types].xml"), "an Office document", "convert it"),
    "gzip": (gzip.compress(b"x" * 500, mtime=0), "a gzip file", "unpack it"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4\n", "Git LFS", "git lfs pull"),
    "page": (b"\n<!DOCTYPE html><html>Sign in</html>", "a web page", "download it again"),
    "pdf": (b"%PDF-1.7" + b"x" * 300, "a PDF", "convert it"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(300), "an HDF5", "convert it"),
    "zeros": (bytes(5000), "zeros", "copy it again"),
    "dicom": (bytes(128) + b"DICM" + bytes(300), "DICOM", "rename it to .dcm"),
    "array": (b"\x93NUMPY" + bytes(300), "a NumPy array", "rename it to .npy"),
}


@pytest.mark.parametrize("suffix", [".dcm", ".avi", ".npy", ".npz", ".nii", ".gif"])
@pytest.mark.parametrize("kind", OTHER)
def test_what_a_file_is_and_what_to_do(tmp_path, suffix, kind):
    content, what, remedy = OTHER[kind]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(VideoError) as error:
        read.read_video(path)
    known = {"dicom": ".dcm", "array": ".npy", "zip": ".npz", "arrays": ".npz"}
    own = known.get(kind) == suffix  # damaged, but what it is called
    assert (what in str(error.value) and remedy in str(error.value)) != own
    assert "copy it again" not in str(error.value).replace(remedy, "") or own


def test_videos_go_by_their_content_and_other_readers_say_what_it_is(tmp_path):
    write_video(tmp_path / "a.avi", moving_square(4))
    data = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data)
    assert len(read.read_video(tmp_path / "a.mp4").frames) == 4
    (tmp_path / "a.avi").write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match="copy it again"):  # it is what it is called
        read.read_video(tmp_path / "a.avi")
    (tmp_path / "a.dcm").write_bytes(data)
    with pytest.raises(VideoError, match="a.dcm: not a readable .dcm file; its content is an AVI video: rename it"):
        read.read_video(tmp_path / "a.dcm")
    np.save(tmp_path / "b.npy", moving_square(4))
    (tmp_path / "b.npy").rename(tmp_path / "b.npz")
    with pytest.raises(VideoError, match="b.npz: not a readable .npz file; its content is a NumPy array"):
        read.read_video(tmp_path / "b.npz")


@pytest.mark.parametrize(
    "content,words",
    [
        (
            archive("[Content_Types].xml"),
            " Its content is an Office document, as of Excel: save the table as CSV in UTF-8.",
        ),
        ("path\na.avi\n".encode("utf-16"), " Its content is UTF-16: save the table as CSV in UTF-8."),
        ("path\na.avi\n".encode("utf-16-be"), " Its content is UTF-16: save the table as CSV in UTF-8."),
        (gzip.compress(b"path\n", mtime=0), " Its content is a gzip file: unpack it."),
        ("path\nCaf\u00e9\n".encode("latin-1"), ""),
    ],
)
def test_what_should_be_a_table(tmp_path, content, words):
    (tmp_path / "a.csv").write_bytes(content)
    assert contents.told_of_table(tmp_path / "a.csv") == words
