"""What a file is by its first bytes, for messages on one that is not what its name says."""

import pathlib
import re

_UNPACK, _EXPORT, _SAVE = "unpack it", "convert it to a format that is read", "save the table as CSV in UTF-8"
# (place, bytes there, what it is, the suffix that says so, and what to do if another does; None: rename it).
_KNOWN: tuple[tuple[int, bytes, str, str, str | None], ...] = (
    (128, b"DICM", "DICOM", ".dcm", None),
    (8, b"AVI ", "an AVI video", ".avi", None),
    (4, b"ftyp", "an MP4 or QuickTime video", ".mp4", None),
    (0, b"\x1a\x45\xdf\xa3", "a Matroska or WebM video", ".mkv", None),
    (0, b"GIF8", "a GIF", ".gif", None),
    (0, b"\x93NUMPY", "a NumPy array", ".npy", None),
    (344, b"n+1\0", "a NIfTI image", ".nii", None),
    (0, b"PK\x03\x04", "a ZIP archive", ".npz", _UNPACK),
    (0, b"\x1f\x8b", "a gzip file", ".nii.gz", _UNPACK),
    (0, b"BZh", "a bzip2 file", ".bz2", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", ".7z", _UNPACK),
    (0, b"Rar!", "a RAR archive", ".rar", _UNPACK),
    (0, b"\xfd7zXZ\0", "an xz file", ".xz", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard file", ".zst", _UNPACK),
    (257, b"ustar", "a tar archive", ".tar", _UNPACK),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 or MATLAB 7.3 file", ".h5", _EXPORT),
    (0, b"MATLAB 5.0", "a MATLAB file", ".mat", _EXPORT),
    (0, b"PAR1", "a Parquet table", ".parquet", _EXPORT),
    (0, b"\x89PNG", "a PNG picture", ".png", _EXPORT),
    (0, b"\xff\xd8\xff", "a JPEG picture", ".jpg", _EXPORT),
    (0, b"II*\0", "a TIFF picture", ".tif", _EXPORT),
    (0, b"MM\0*", "a TIFF picture", ".tif", _EXPORT),
    (8, b"WEBP", "a WebP picture", ".webp", _EXPORT),
    (0, b"%PDF", "a PDF document", ".pdf", _EXPORT),
    (0, b"\xd0\xcf\x11\xe0", "an Excel workbook or another Office document", ".xls", _EXPORT),
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "", "git lfs pull fetches that"),
)
# How the first member is called of an Office document, and of an .npz, which are ZIP archives.
_OFFICE, _ARRAY = b"[Content_Types].xml", b".npy"
_WEB_PAGE = re.compile(rb"\s*(<!doctype html|<html|<\?xml)", re.IGNORECASE)
_START = 4096


def told(path: pathlib.Path, suffixes: tuple[str, ...]) -> str:
    """What a file is, if it is none of a format, and what to do about that; "" if that is not seen.

    Args:
      suffixes: of the format that it was taken for.
    """
    with open(path, "rb") as file:
        start = file.read(_START)
    for place, mark, what, suffix, remedy in _KNOWN:
        if start[place : place + len(mark)] == mark:
            member = start[30 : 30 + int.from_bytes(start[26:28], "little")] if suffix == ".npz" else b""
            if member == _OFFICE:
                what, suffix, remedy = "an Office document, as of Excel", ".xlsx", _EXPORT
            elif member.endswith(_ARRAY):
                what, remedy = "an archive of NumPy arrays", None
            return "" if suffix in suffixes else f"its content is {what}: {remedy or f'rename it to {suffix}'}"
    if _WEB_PAGE.match(start):
        return "its content is a web page or XML, as where a download needs a login: download it again"
    if start and not start.strip(b"\0"):
        return f"its first {len(start)} bytes are zeros: copy it again"
    return ""


def told_of_table(path: pathlib.Path) -> str:
    """The same of what should be a CSV, as a sentence with a space in front; "" if nothing is seen."""
    text = told(path, (".csv",)).replace(_EXPORT, _SAVE)
    with open(path, "rb") as file:
        start = file.read(4)
    if not text and (start[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in start):
        text = f"its content is UTF-16: {_SAVE}"
    return f" {text[:1].upper()}{text[1:]}." if text else ""
