"""A laboratory's own folder, as private sets come: any format, described by a CSV.

DIRECTORY/
  labels.csv                                   Path, class (Normal where EF >= 50, else Abnormal), and what is optional
  site_{1,2}/case_<10 hex>/clip_{1,2}.<suffix>  formats in turn; DICOM with text, ECG and colour bar burnt in

Every other patient has a second clip. Views: A4C first, then PSAX; PLAX and A2C for the patients in between.
"""

from pathlib import Path

from tfds_builders.echo_phantom import dicom_files, files, formats, screen, views
from tfds_builders.echo_phantom.simulator import simulate

SIMULATOR_VERSION = 1
COLUMNS = ("Path", "class", "patient_id", "split", "ef", "fps", "view")
SUFFIXES = (*formats.SUFFIXES[:2], ".dcm", *formats.SUFFIXES[2:])
NORMAL_EF = 50


def jobs(counts: dict[str, int], seed: int) -> list[files.Job]:
    """One clip per patient, two of every other one; a job is named by the path of its file."""
    clips = [
        (split, patient, clip, (("A4C", "PSAX"), ("PLAX",), ("A2C", "PSAX"), ("A4C",))[patient % 4][clip])
        for split in files.SPLITS
        for patient in range(counts.get(split, 0))
        for clip in range(2 - patient % 2)
    ]
    return [
        files.Job(
            f"site_{patient % 2 + 1}/case_{_case(seed, split, patient)}/clip_{clip + 1}"
            + SUFFIXES[number % len(SUFFIXES)],
            seed, split, patient, clip, view,
        )
        for number, (split, patient, clip, view) in enumerate(clips)
    ]  # fmt: skip


def _case(seed: int, split: str, patient: int) -> str:
    return files.pseudonym(seed, split, patient, digits=10)


def write_clip(directory: Path, job: files.Job) -> dict:
    """Writes one file and its truth; returns its row of labels.csv."""
    params = views.draw_patient(job)
    clip = simulate(params, job.view)
    path = directory / job.name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".dcm":
        place = screen.Screen(240, 320, 1.75, top=8, left=62)
        lines = ["PHANTOM C5-1", f"{clip.fps:.0f}Hz", dicom_files.PATIENT_NAME.replace("^", " ")]
        beats = [beat.start for beat in params.beats]
        shown = screen.annotate(place.show(clip.frames), lines, beats, len(clip.frames) / clip.fps)
        sector = place.sector(params)
        dicom_files.write_dicom(
            path, shown, dicom_files.KINDS[job.patient % 3], clip.fps, params.heart_rate,
            params.mm_per_pixel / place.scale, screen.box(sector),
        )  # fmt: skip
    else:
        place = screen.Screen(176, 216, 1.5, top=4, left=24)
        sector = place.sector(params)
        formats.write(path, place.show(clip.frames), clip.fps, params.mm_per_pixel / place.scale)
    masks = place.show_labels(clip.masks[list(clip.traced_frames)])
    files.write_truth(directory, job.name, clip.traced_frames, masks, sector=sector)
    ef = round(params.ef, 1)
    label = "Normal" if ef >= NORMAL_EF else "Abnormal"
    listed = [job.name, label, _case(job.seed, job.split, job.patient), job.split, ef, clip.fps, job.view]
    return {"listed": listed, "attributes": files.attributes(job, clip, EF=ef)}


def write_tables(directory: Path, rows: list[dict]) -> None:
    """labels.csv of all clips."""
    files.write_csv(directory / "labels.csv", COLUMNS, [row["listed"] for row in rows])
