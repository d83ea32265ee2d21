"""MIMIC-IV-ECHO's layout: studies of DICOM files, tables of files and studies, and measurements of the reports.

DIRECTORY/
  echo-record-list.csv, echo-study-list.csv, structured-measurement.csv.gz
  files/p<2 digits>/p<8 digits>/s<8 digits>/<study>_<number>.dcm     clips of A4C and PLAX, and a still

The set is published without splits: patients have such numbers that `splits.hashed_split` (seed 0, 8 : 1 : 1) gives
each the split asked for. Every study has an ejection fraction (lvef), that of its hearts in whole percent.
"""

import gzip
import io
import itertools
from pathlib import Path

from tfds_builders import splits
from tfds_builders.echo_phantom import dicom_files, files, screen, views
from tfds_builders.echo_phantom.simulator import simulate

SIMULATOR_VERSION = 1
RECORDS = ("subject_id", "study_id", "acquisition_datetime", "dicom_filepath")
STUDIES = ("subject_id", "study_id", "study_datetime", "measurement_id", "measurement_datetime")
MEASUREMENTS = (
    "subject_id", "measurement_id", "measurement_datetime", "test_type", "measurement", "measurement_description",
    "result", "unit",
)  # fmt: skip
_VIEWS = ("A4C", "PLAX")
_WHEN = "2180-01-01 12:00:00"
_STUDY, _FIRST = 80_000_000, 10_000_000  # more than the subject, and the lowest of all subjects


def jobs(counts: dict[str, int], seed: int) -> list[files.Job]:
    """Two clips per patient, named as their files."""
    return [
        files.Job(f"{subject(split, patient) + _STUDY}_{clip + 1:04d}", seed, split, patient, clip, view)
        for split in files.SPLITS
        for patient in range(counts.get(split, 0))
        for clip, view in enumerate(_VIEWS)
    ]


def subject(split: str, patient: int) -> int:
    """Number of a split's n-th patient."""
    numbers = (
        number
        for number in itertools.count(_FIRST)
        if splits.hashed_split(str(number), 0, {"train": 8, "val": 1, "test": 1}) == split
    )
    return next(itertools.islice(numbers, patient, None))


def write_clip(directory: Path, job: files.Job) -> dict:
    """Writes a clip and its truth, and after a study's first clip a still; returns the rows of both."""
    number = subject(job.split, job.patient)
    study, ef = number + _STUDY, round(views.draw_patient(job).ef)
    folder = f"files/p{str(number)[:2]}/p{number}/s{study}"
    (directory / folder).mkdir(parents=True, exist_ok=True)
    params = views.draw_patient(job)
    clip = simulate(params, job.view)
    place = screen.Screen(240, 320, 1.75, top=8, left=62)
    beats = [beat.start for beat in params.beats]
    lines = ["PHANTOM X5-1", f"{clip.fps:.0f}Hz", f"HR {params.heart_rate:.0f}"]
    shown = screen.annotate(place.show(clip.frames), lines, beats, len(clip.frames) / clip.fps)
    sector = place.sector(params)
    written = {f"{job.name}.dcm": shown}
    if not job.clip:
        written[f"{study}_{len(_VIEWS) + 1:04d}.dcm"] = shown[:1]
    for name, frames in written.items():
        dicom_files.write_dicom(
            directory / folder / name, frames, "YBR_FULL_422", clip.fps, params.heart_rate,
            params.mm_per_pixel / place.scale, screen.box(sector),
        )  # fmt: skip
    masks = place.show_labels(clip.masks[list(clip.traced_frames)])
    files.write_truth(directory, job.name, clip.traced_frames, masks, sector=sector)
    listed = [[number, study, _WHEN, f"{folder}/{name}"] for name in written]
    return {"listed": listed, "ef": ef, "attributes": files.attributes(job, clip, EF=clip.ef)}


def write_tables(directory: Path, rows: list[dict]) -> None:
    """The three tables; a study's measurement has the number of the study backwards."""
    files.write_csv(directory / "echo-record-list.csv", RECORDS, [line for row in rows for line in row["listed"]])
    studies = {tuple(row["listed"][0][:2]): row["ef"] for row in rows}
    numbered = [(number, study, str(study)[::-1], ef) for (number, study), ef in studies.items()]
    lines = [[number, study, _WHEN, measurement, _WHEN] for number, study, measurement, _ in numbered]
    files.write_csv(directory / "echo-study-list.csv", STUDIES, lines)
    text = io.StringIO()
    text.write(",".join(MEASUREMENTS) + "\n")
    for number, _, measurement, ef in numbered:
        text.write(f"{number},{measurement},{_WHEN},tte,lvef,Left ventricular ejection fraction,{ef},%\n")
        text.write(f"{number},{measurement},{_WHEN},tte,la_size,Left atrium,normal,\n")
    packed = gzip.compress(text.getvalue().encode(), mtime=0)
    (directory / "structured-measurement.csv.gz").write_bytes(packed)
