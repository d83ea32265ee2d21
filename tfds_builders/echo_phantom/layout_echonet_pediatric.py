"""EchoNet-Pediatric's layout: apical four-chamber and parasternal short-axis clips, one study a patient.

DIRECTORY/pediatric_echo_avi/pediatric_echo_avi/
  A4C/  FileList.csv  VolumeTracings.csv  Videos/CR<7 hex>-CR<7 hex>-000001.avi   MJPEG, 112 x 112
  PSAX/ the same

Patients of train are in folds 0 to 7 in turn, those of val in fold 8, those of test in fold 9. Every patient has
three clips: A4C and PSAX and, in turn, another A4C or another PSAX; the EF is the study's. The second A4C clip of
every fourth patient has no systolic tracing.
"""

from pathlib import Path

import numpy as np

from tfds_builders.echo_phantom import files, measure, views
from tfds_builders.echo_phantom.simulator import simulate

SIMULATOR_VERSION = 1
FILE_LIST = ("FileName", "EF", "Sex", "Age", "Weight", "Height", "Split")
TRACINGS = ("FileName", "X", "Y", "Frame")
VIEWS = ("A4C", "PSAX")
_TRACED_POINTS = 64
_INSET = 0.4  # pixels; readers round, and count the outline in


def jobs(counts: dict[str, int], seed: int) -> list[files.Job]:
    """Three clips per patient."""
    return [
        files.Job(_name(seed, split, patient, clip), seed, split, patient, clip, view)
        for split in files.SPLITS
        for patient in range(counts.get(split, 0))
        for clip, view in enumerate((*VIEWS, VIEWS[patient % 2]))
    ]


def _name(seed: int, split: str, patient: int, clip: int) -> str:
    person, study = (files.pseudonym(seed, split, patient, what, digits=7) for what in ("patient", "study"))
    return f"CR{person}-CR{study}-{clip + 1:06d}"


def fold(split: str, patient: int) -> int:
    """The fold of a patient, 0 to 9."""
    return {"train": patient % 8, "val": 8, "test": 9}[split]


def write_clip(directory: Path, job: files.Job) -> dict:
    """Writes one video and its truth; returns its rows of the tables."""
    clip = simulate(views.draw_patient(job), job.view)
    videos = _root(directory) / job.view / "Videos"
    videos.mkdir(parents=True, exist_ok=True)
    (videos / f"{job.name}.avi").write_bytes(files.encode_avi(clip.frames, clip.fps))
    files.write_truth(directory, job.name, clip.traced_frames, clip.masks[list(clip.traced_frames)])
    rng = job.rng(0)
    age = int(rng.integers(0, 18))
    height = 52 + 6.6 * age + rng.normal(0, 4)
    weight = max(16.5 * (height / 100) ** 2 + rng.normal(0, 2), 2.5)
    # Of the study, not as sampled in one of its clips.
    ef = round(clip.heart.params.ef, 2)
    name = f"{job.name}.avi"
    listed = [name, ef, str(rng.choice(["F", "M"])), age, round(weight, 1), round(height, 1)]
    untraced = job.view == "A4C" and job.clip == 2 and job.patient % 4 == 0
    # Systole first; a phase without tracing has a row that says so.
    traced = [[name, "", "", "No Systolic"]] if untraced else _traced(name, clip, clip.es_frame)
    traced += _traced(name, clip, clip.ed_frame)
    return {
        "view": job.view,
        "listed": [*listed, fold(job.split, job.patient)],
        "traced": traced,
        "attributes": files.attributes(job, clip, EF=ef),
    }


def _traced(name: str, clip, frame: int) -> list[list]:
    points = np.rint(measure.hand_traced(clip.outline(frame), _TRACED_POINTS, _INSET)).astype(int)
    return [[name, x, y, frame] for x, y in points.tolist()]


def write_tables(directory: Path, rows: list[dict]) -> None:
    """FileList.csv and VolumeTracings.csv of each view."""
    for view in VIEWS:
        of_view = [row for row in rows if row["view"] == view]
        folder = _root(directory) / view
        files.write_csv(folder / "FileList.csv", FILE_LIST, [row["listed"] for row in of_view])
        lines = [line for row in of_view for line in row["traced"]]
        files.write_csv(folder / "VolumeTracings.csv", TRACINGS, lines)


def _root(directory: Path) -> Path:
    return directory / "pediatric_echo_avi" / "pediatric_echo_avi"
