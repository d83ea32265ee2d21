"""CardiacNet's layout: four-chamber videos as NIfTI, in folders of those with a disease and of those without.

DIRECTORY/
  CardiacNet-PAH/{PAH,Non-PAH}/<3 digits>_image.nii/patient-<n>-4_image.nii     axes across, down, time
  CardiacNet-ASD/{ASD,Non-ASD}/...                                              the same videos
  cardiacnet_{pah,asd}_split.csv                                                ours: splits, as CardioBench's tables

Patients of an EF below 50 are among those with the disease, in both.
"""

from pathlib import Path

from tfds_builders.echo_phantom import files, formats, screen, views
from tfds_builders.echo_phantom.simulator import simulate

SIMULATOR_VERSION = 1
DISEASES = ("PAH", "ASD")
NORMAL_EF = 50


def jobs(counts: dict[str, int], seed: int) -> list[files.Job]:
    """One clip per patient; patients are numbered through the splits."""
    patients = [(split, patient) for split in files.SPLITS for patient in range(counts.get(split, 0))]
    return [
        files.Job(f"{number:03d}_image_patient-{number}-4", seed, split, patient)
        for number, (split, patient) in enumerate(patients, start=1)
    ]


def write_clip(directory: Path, job: files.Job) -> dict:
    """Writes the video into both sets, and its truth; returns its row of both tables."""
    params = views.draw_patient(job)
    clip = simulate(params, job.view)
    place = screen.Screen(176, 216, 1.5, top=4, left=24)
    ill = int(params.ef < NORMAL_EF)
    number, _, patient = job.name.split("_")
    for disease in DISEASES:
        group = disease if ill else f"Non-{disease}"
        folder = directory / f"CardiacNet-{disease}" / group / f"{number}_image.nii"
        folder.mkdir(parents=True, exist_ok=True)
        # The name ends in .nii: not packed.
        frames = place.show(clip.frames).transpose(2, 1, 0)
        spacing = params.mm_per_pixel / place.scale
        formats.write_nifti(folder / f"{patient}_image.nii", frames, (spacing, spacing))
        (directory / f"CardiacNet-{disease}" / f"Non-{disease}").mkdir(exist_ok=True)
    masks = place.show_labels(clip.masks[list(clip.traced_frames)])
    files.write_truth(directory, job.name, clip.traced_frames, masks, sector=place.sector(params))
    return {"listed": [job.name, ill, job.split], "attributes": files.attributes(job, clip, EF=clip.ef, Ill=ill)}


def write_tables(directory: Path, rows: list[dict]) -> None:
    """The splits."""
    for disease in DISEASES:
        columns = ("unique_id", disease, "split")
        files.write_csv(directory / f"cardiacnet_{disease.lower()}_split.csv", columns, [row["listed"] for row in rows])
