"""EchoNet-Dynamic's layout: one apical four-chamber clip per patient.

DIRECTORY/
  FileList.csv, VolumeTracings.csv   as the dataset ships them
  Videos/0X<16 hex>.avi              MJPEG, 112 x 112
"""

from pathlib import Path

from tfds_builders.echo_phantom import files
from tfds_builders.echo_phantom.simulator import SIZE, Clip, draw_heart, simulate

SIMULATOR_VERSION = 4
FILE_LIST = ("FileName", "EF", "ESV", "EDV", "FrameHeight", "FrameWidth", "FPS", "NumberOfFrames", "Split")
TRACINGS = ("FileName", "X1", "Y1", "X2", "Y2", "Frame")


def jobs(counts: dict[str, int], seed: int) -> list[files.Job]:
    """One clip per patient; its name is hash-like as in the dataset, 0X and 16 hexadecimal digits."""
    return [
        files.Job("0X" + files.pseudonym(seed, split, index).upper(), seed, split, index)
        for split in files.SPLITS
        for index in range(counts.get(split, 0))
    ]


def simulate_one(seed: int, split: str, index: int) -> Clip:
    """Clip number `index` of a split."""
    return simulate(draw_heart(files.Job("", seed, split, index).rng()))


def write_clip(directory: Path, job: files.Job) -> dict:
    """Writes one video and its truth; returns its rows of the tables."""
    name = job.name
    clip = simulate_one(job.seed, job.split, job.patient)
    (directory / "Videos").mkdir(exist_ok=True)
    (directory / "Videos" / f"{name}.avi").write_bytes(files.encode_avi(clip.frames, clip.fps))
    files.write_truth(directory, name, clip.traced_frames, clip.masks[list(clip.traced_frames)])
    listed = [name, clip.ef, clip.esv, clip.edv, SIZE, SIZE, clip.fps, len(clip.frames), job.split.upper()]
    # The dataset lists the small frame first.
    traced = [
        [f"{name}.avi", *(round(float(value), 4) for value in ends.reshape(-1)), frame]
        for frame in (clip.es_frame, clip.ed_frame)
        for ends in clip.tracings[frame]
    ]
    truth = {
        "EDFrame": clip.ed_frame,
        "ESFrame": clip.es_frame,
        "BeatFirst": clip.beat[0],
        "BeatLast": clip.beat[1],
    }
    return {"listed": listed, "traced": traced, "attributes": {"FileName": name, **truth, **clip.attributes}}


def write_tables(directory: Path, rows: list[dict]) -> None:
    """FileList.csv and VolumeTracings.csv of all clips."""
    files.write_csv(directory / "FileList.csv", FILE_LIST, [row["listed"] for row in rows])
    lines = [line for row in rows for line in row["traced"]]
    files.write_csv(directory / "VolumeTracings.csv", TRACINGS, lines)
