"""What the layouts share in writing: a clip's job, video files, tables, and the truth beside them."""

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

SPLITS = ("train", "val", "test")
_QUALITY = 3  # of MJPEG, 1 best to 31; the datasets' files look like about this


class Job(NamedTuple):
    """One clip to simulate. It does not depend on how many others there are.

    Attributes:
      name: of the clip, unique in the data set: as builders call its record, a file's stem or its path.
      seed: of the data set.
      split: train, val or test.
      patient: number of the patient within the split.
      clip: number of the clip among the patient's.
      view: of `views.VIEWS`.
    """

    name: str
    seed: int
    split: str
    patient: int
    clip: int = 0
    view: str = "A4C"

    def rng(self, *stream: int) -> np.random.Generator:
        """Random numbers of this patient; independent ones for each `stream`."""
        if self.split not in SPLITS:
            raise ValueError(f"unknown split {self.split!r}: one of {SPLITS}")
        entropy = [self.seed, SPLITS.index(self.split), self.patient]
        return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=stream))


def file_name(name: str, suffix: str) -> str:
    """A clip's name, which may be a path, as that of one file."""
    return name.replace("/", "_") + suffix


def pseudonym(*parts: object, digits: int = 16) -> str:
    """Hash-like name made of `parts`, as `digits` lower-case hexadecimal digits."""
    return digest("/".join(map(str, parts)).encode())[:digits]


def digest(data: bytes) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(data).hexdigest()


def encode_avi(frames: np.ndarray, fps: float) -> bytes:
    """An MJPEG AVI of grey frames (yuvj420p, as EchoNet's), byte for byte the same at each call.

    Args:
      frames: uint8 [T, H, W].
      fps: frames per second, kept to a tenth.
    """
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("mjpeg", rate=Fraction(round(fps * 10), 10))
        stream.width, stream.height = frames.shape[2], frames.shape[1]
        stream.pix_fmt = "yuvj420p"
        stream.thread_count = 1
        stream.options = {"flags": "+bitexact", "qmin": str(_QUALITY), "qmax": str(_QUALITY)}
        chroma = np.full((frames.shape[1] // 2, frames.shape[2]), 128, np.uint8)
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.concatenate([frame, chroma]), format="yuvj420p")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return buffer.getvalue()


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Writes a table with LF line ends."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def attributes(job: Job, clip, **more: float | str) -> dict:
    """A clip's row of attributes.csv: where its labels are and what was drawn."""
    return {
        "FileName": job.name,
        "View": job.view,
        "EDFrame": clip.ed_frame,
        "ESFrame": clip.es_frame,
        "BeatFirst": clip.beat[0],
        "BeatLast": clip.beat[1],
        **more,
        **clip.attributes,
    }


def write_attributes(directory: Path, rows: Sequence[dict]) -> None:
    """Writes attributes.csv: what was drawn for each clip, row["attributes"]."""
    columns = list(rows[0]["attributes"])
    write_csv(directory / "attributes.csv", columns, [list(row["attributes"].values()) for row in rows])


def write_truth(directory: Path, name: str, frames: Sequence[int], masks: np.ndarray, **more: np.ndarray) -> None:
    """Writes .truth/NAME.npz: the masks [N, H, W] of N frames, and what else records can be compared with."""
    path = directory / ".truth" / file_name(name, ".npz")
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, masks=masks, mask_frames=np.array(frames), **more)


def read_truth(directory: Path, name: str) -> dict[str, np.ndarray]:
    """What `write_truth` wrote for a clip."""
    with np.load(directory / ".truth" / file_name(name, ".npz"), allow_pickle=False) as arrays:
        return dict(arrays)
