"""SegRWMA's layout: apical views as NIfTI, and, as CardioBench's table has them, labels and splits.

DIRECTORY/
  wallMotion/patient<n>-2D-A4C_image.nii.gz, ...-A2C_...    axes across, down, time
  segrwma_split.csv                                         ours, as CardioBench's: path, view, split, abnormal

Patients of an EF below 50 are abnormal. There is no A3C, and no mode with contrast: they are not simulated.
"""

from pathlib import Path

from tfds_builders.echo_phantom import files, formats, screen, views
from tfds_builders.echo_phantom.simulator import simulate

SIMULATOR_VERSION = 1
COLUMNS = ("patient_id", "path", "modality", "view", "split", "abnormal", "patient_view_id")
NORMAL_EF = 50
_VIEWS = ("A4C", "A2C")


def jobs(counts: dict[str, int], seed: int) -> list[files.Job]:
    """Two clips per patient; patients are numbered through the splits."""
    patients = [(split, patient) for split in files.SPLITS for patient in range(counts.get(split, 0))]
    return [
        files.Job(f"patient{number}-2D-{view}", seed, split, patient, clip, view)
        for number, (split, patient) in enumerate(patients, start=1)
        for clip, view in enumerate(_VIEWS)
    ]


def write_clip(directory: Path, job: files.Job) -> dict:
    """Writes one video and its truth; returns its row of the table."""
    params = views.draw_patient(job)
    clip = simulate(params, job.view)
    place = screen.Screen(176, 216, 1.5, top=4, left=24)
    folder = directory / "wallMotion"
    folder.mkdir(exist_ok=True)
    name = f"{job.name}_image.nii.gz"
    formats.write(folder / name, place.show(clip.frames), clip.fps, params.mm_per_pixel / place.scale)
    masks = place.show_labels(clip.masks[list(clip.traced_frames)])
    files.write_truth(directory, job.name, clip.traced_frames, masks, sector=place.sector(params))
    patient, abnormal = job.name.partition("-")[0], int(params.ef < NORMAL_EF)
    path = f"data/raw/Regional_wall_motion_abnormality/wallMotion/{name}"
    listed = [patient, path, "2D", job.view, job.split, abnormal, f"{patient}_{job.view}"]
    return {"listed": listed, "attributes": files.attributes(job, clip, EF=clip.ef, Abnormal=abnormal)}


def write_tables(directory: Path, rows: list[dict]) -> None:
    """The table of all clips."""
    files.write_csv(directory / "segrwma_split.csv", COLUMNS, [row["listed"] for row in rows])
