"""CAMUS's layout: half cycles of the apical two- and four-chamber view of each patient, with masks of every frame.

DIRECTORY/
  database_nifti/patient0001/
    Info_2CH.cfg  Info_4CH.cfg                 ED and ES count from 1; EF is biplane, in whole percent
    patient0001_{2CH,4CH}_{ED,ES}.nii.gz       and ..._gt.nii.gz: 1 LV cavity, 2 myocardium, 3 left atrium
    patient0001_{2CH,4CH}_half_sequence.nii.gz and ..._gt.nii.gz
  database_split/subgroup_{training,validation,testing}.txt

Arrays are [x, y] or [x, y, frame] as nibabel sees them, x lateral and y in depth, of another spacing each. Every third
patient's half cycle runs from ES to ED; ED and ES files are 2-D in one patient and have a third axis of 1 in the next.
"""

import dataclasses
from pathlib import Path

import numpy as np

from tfds_builders.echo_phantom import files, formats, measure, scanner, screen, views
from tfds_builders.echo_phantom.parameters import HeartParameters
from tfds_builders.echo_phantom.simulator import simulate

SIMULATOR_VERSION = 1
CHAMBERS = {"A2C": "2CH", "A4C": "4CH"}
_GROUPS = {"train": "training", "val": "validation", "test": "testing"}


def jobs(counts: dict[str, int], seed: int) -> list[files.Job]:
    """Two clips per patient; patients are numbered through the splits."""
    patients = [(split, patient) for split in files.SPLITS for patient in range(counts.get(split, 0))]
    return [
        files.Job(f"patient{number:04d}_{chamber}", seed, split, patient, clip, view)
        for number, (split, patient) in enumerate(patients, start=1)
        for clip, (view, chamber) in enumerate(CHAMBERS.items())
    ]


def draw(job: files.Job) -> HeartParameters:
    """Parameters of one view; both have one scale, so that their discs can be put together."""
    scale = float(job.rng(0, 0).uniform(1.25, 1.6))
    return dataclasses.replace(views.draw_patient(job), mm_per_pixel=scale)


def biplane_volume(hearts: list, contraction: float) -> float:
    """Volume in cubic pixels of 20 elliptic discs, whose axes two views give, over the longer of the two axes."""
    levels = (np.arange(measure.NUM_DISCS) + 0.5) / measure.NUM_DISCS
    widths, lengths = [], []
    for heart in hearts:
        apex, base = heart.axis(contraction)
        ends = measure.chords(heart.contour(contraction), apex, base, levels)
        widths.append(np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1))
        lengths.append(np.linalg.norm(base - apex))
    return float(np.pi / 4 * np.sum(widths[0] * widths[1]) * max(lengths) / measure.NUM_DISCS)


def volumes(job: files.Job) -> tuple[float, float]:
    """End-diastolic and end-systolic volume of the job's patient, biplane, in mL."""
    pair = [job._replace(clip=clip, view=view) for clip, view in enumerate(CHAMBERS)]
    drawn = [draw(one) for one in pair]
    hearts = [views.VIEWS[one.view].heart(params) for one, params in zip(pair, drawn, strict=True)]
    millilitres = (drawn[0].mm_per_pixel / 10) ** 3
    return biplane_volume(hearts, 0.0) * millilitres, biplane_volume(hearts, 1.0) * millilitres


def write_clip(directory: Path, job: files.Job) -> dict:
    """Writes one view of a patient and its truth."""
    patient, chamber = job.name.split("_")
    folder = directory / "database_nifti" / patient
    folder.mkdir(parents=True, exist_ok=True)
    params = draw(job)
    clip = simulate(params, job.view)
    order = np.arange(clip.ed_frame, clip.es_frame + 1)
    order = order[::-1] if job.patient % 3 == 1 else order
    ed, es = (int(np.flatnonzero(order == frame)[0]) for frame in clip.traced_frames)

    # The sector's box, enlarged by factors of its own in each direction.
    top, left, bottom, right = screen.box(~scanner.outside(params))
    box = slice(top, bottom), slice(left, right)
    rng = job.rng(1 + job.clip, 0)
    height, width = round((bottom - top) * rng.uniform(2.4, 3.0)), round((right - left) * rng.uniform(1.3, 1.8))
    spacing = params.mm_per_pixel * (right - left) / width, params.mm_per_pixel * (bottom - top) / height
    frames = np.stack([screen.enlarge(clip.frames[t][box], (width, height)) for t in order])
    masks = np.stack([screen.enlarge_labels(clip.masks[t][box], (width, height)) for t in order])

    for phase, index in (("ED", ed), ("ES", es)):
        for ending, array in (("", frames), ("_gt", masks)):
            picture = array[index].T
            picture = picture[..., None] if job.patient % 2 else picture
            formats.write_nifti(folder / f"{job.name}_{phase}{ending}.nii.gz", picture, spacing)
    for ending, array in (("", frames), ("_gt", masks)):
        formats.write_nifti(folder / f"{job.name}_half_sequence{ending}.nii.gz", array.transpose(2, 1, 0), spacing)
    files.write_truth(directory, job.name, (ed, es), masks[[ed, es]])

    edv, esv = volumes(job)
    ef = round(100 * (1 - esv / edv))
    person = job.rng(0)
    info = {
        "ED": ed + 1, "ES": es + 1, "NbFrame": len(frames), "Sex": person.choice(["F", "M"]),
        "Age": person.integers(20, 90), "ImageQuality": rng.choice(["Good", "Medium", "Poor"]), "EF": ef,
        "FrameRate": round(clip.fps, 1),
    }  # fmt: skip
    lines = [f"{key}: {value}\n" for key, value in info.items()]
    (folder / f"Info_{chamber}.cfg").write_text("".join(lines))
    row = files.attributes(job, clip, EF=ef, EDV=edv, ESV=esv) | {"EDFrame": ed, "ESFrame": es}
    return {"patient": patient, "split": job.split, "attributes": row}


def write_tables(directory: Path, rows: list[dict]) -> None:
    """The lists of patients by split."""
    (directory / "database_split").mkdir(exist_ok=True)
    for split, group in _GROUPS.items():
        patients = dict.fromkeys(row["patient"] for row in rows if row["split"] == split)
        path = directory / "database_split" / f"subgroup_{group}.txt"
        path.write_text("".join(f"{patient}\n" for patient in patients))
