"""RVENet's layout: apical four-chamber DICOM clips with a right ventricular ejection fraction (RVEF) each.

DIRECTORY/
  codebook.csv                      16 columns
  <4 hex>_<4 hex>_<number>.dcm      multi-frame, 240 x 320: text, ECG and colour bar around the sector

The dataset ships `train` and `validation` only: patients of val and of test go to validation, with such hashes that
`splits.hashed_split` (seed 0, equal shares) parts them again. Every other patient has a second clip. Photometric
interpretation and orientation change from patient to patient. The right ventricle of every clip moves so that its
volume, measured as 8 A^2 / (3 pi L) from area A and length L of its outline, has the patient's RVEF; RVEDV is drawn.
"""

import dataclasses
import itertools
from pathlib import Path

import numpy as np

from tfds_builders import splits
from tfds_builders.echo_phantom import apical, dicom_files, files, screen, views
from tfds_builders.echo_phantom.parameters import HeartParameters
from tfds_builders.echo_phantom.simulator import simulate

SIMULATOR_VERSION = 1
CODEBOOK = (
    "FileName", "PatientHash", "PatientGroup", "Age", "Sex", "HR", "UltrasoundSystem", "FPS", "NumFrames",
    "VideoViewType", "VideoOrientation", "VideoQuality", "RVEDV", "RVESV", "RVEF", "Split",
)  # fmt: skip
_SPLITS = {"train": "train", "val": "validation", "test": "validation"}
_HEIGHT, _WIDTH, _SCALE = 240, 320, 1.75


def jobs(counts: dict[str, int], seed: int) -> list[files.Job]:
    """One clip per patient, two of every other one."""
    return [
        files.Job(_name(seed, split, patient, clip), seed, split, patient, clip)
        for split in files.SPLITS
        for patient in range(counts.get(split, 0))
        for clip in range(2 - patient % 2)
    ]


def _name(seed: int, split: str, patient: int, clip: int) -> str:
    person = files.pseudonym(seed, split, patient, digits=8).upper()
    return f"{person[:4]}_{person[4:]}_{clip + 1:02d}"


def patient_hash(job: files.Job) -> str:
    """The patient's key; of patients of val and test one by which they are found to be in that split."""
    for attempt in itertools.count():
        key = files.pseudonym(job.seed, job.split, job.patient, "hash", attempt)
        if job.split == "train" or splits.hashed_split(key, 0, {"val": 1, "test": 1}) == job.split:
            return key


def draw_rvef(rng: np.random.Generator) -> float:
    """An RVEF in percent: mostly normal around 55, about a third from 20 to 48."""
    rvef = rng.uniform(20, 48) if rng.random() < 0.35 else rng.normal(55, 3.5)
    return round(float(np.clip(rvef, 20, 62)), 1)


def draw_right_heart(job: files.Job, rvef: float) -> HeartParameters:
    """Parameters of a clip whose right ventricle is well seen and has the RVEF, by a drawn mixture of its motions."""
    rng = job.rng(1 + job.clip, 1)
    params = views.draw_patient(job)
    width = float(rng.uniform(0.95, 1.3))
    params = dataclasses.replace(
        params, rv_width=width, rv_radial=float(rng.uniform(0.2, 0.4) * width * params.half_width),
        rv_longitudinal=float(rng.uniform(0.08, 0.2) * params.length),
    )  # fmt: skip
    return apical.with_rvef(params, rvef)


def write_clip(directory: Path, job: files.Job) -> dict:
    """Writes one object and its truth; returns its row of the codebook."""
    patient = job.rng(0)
    rvef, edv = draw_rvef(patient), patient.uniform(70, 160)
    sex, age = str(patient.choice(["F", "M"])), int(patient.integers(18, 85))
    group = str(patient.choice(["Healthy", "Athlete", "HTX", "HFrEF"]))
    params = draw_right_heart(job, rvef)
    clip = simulate(params)
    # Up to the end of the labelled beat, which is a whole cycle or more.
    frames = clip.frames[: clip.beat[1] + 1]

    # As drawn, the left heart is on the right (Stanford); Mayo shows it on the left.
    orientation = ("Stanford", "Mayo")[job.patient // 2 % 2]
    place = screen.Screen(_HEIGHT, _WIDTH, _SCALE, top=8, left=62, mirrored=orientation == "Mayo")
    lines = ["PHANTOM S5-1", f"FR {clip.fps:.0f}Hz", f"HR {params.heart_rate:.0f}", "2D / 62%", f"ID {job.name[:4]}"]
    beats = [beat.start for beat in params.beats]
    shown = screen.annotate(place.show(frames), lines, beats, len(frames) / clip.fps)
    sector = place.sector(params)
    dicom_files.write_dicom(
        directory / f"{job.name}.dcm", shown, dicom_files.KINDS[job.patient % 3], clip.fps, params.heart_rate,
        params.mm_per_pixel / _SCALE, screen.box(sector),
    )  # fmt: skip
    masks = place.show_labels(clip.masks[list(clip.traced_frames)])
    files.write_truth(directory, job.name, clip.traced_frames, masks, sector=sector)
    listed = [
        job.name, patient_hash(job), group, age, sex,
        round(params.heart_rate), "GE Vivid E95", clip.fps, len(frames),
        ("Standard", "RV-focused")[job.clip], orientation, int(job.rng(1 + job.clip, 2).integers(2, 6)),
        round(edv, 1), round(edv * (1 - rvef / 100), 1), rvef, _SPLITS[job.split],
    ]  # fmt: skip
    return {"listed": listed, "attributes": files.attributes(job, clip, RVEF=rvef, EF=clip.ef)}


def write_tables(directory: Path, rows: list[dict]) -> None:
    """codebook.csv of all clips."""
    files.write_csv(directory / "codebook.csv", CODEBOOK, [row["listed"] for row in rows])
