"""TMED-2's layout: stills, with their view and the severity of aortic stenosis of their study.

DIRECTORY/
  DEV479/TMED2_fold{0,1,2}_labeledpart.csv                           a row a still; fold 0 has the splits asked for
  view_and_diagnosis_labeled_set/labeled/<patient>s1_<number>.png    112 x 112, grey

A patient has two stills, of end-diastole and end-systole, of each of PLAX, PSAX, A4C and A2C; the last are listed as
A4CorA2CorOther in every other patient. The severity is drawn per patient and shows nowhere in the picture. In fold 1
the patients of train are listed as val, of val as test, of test as train; in fold 2 once more.
"""

from pathlib import Path

from tfds_builders.echo_phantom import files, views
from tfds_builders.echo_phantom.simulator import simulate

SIMULATOR_VERSION = 1
COLUMNS = (
    "query_key", "view_label", "diagnosis_label", "view_classifier_split", "diagnosis_classifier_split", "SourceFolder",
)  # fmt: skip
FOLDER = "view_and_diagnosis_labeled_set/labeled"
SEVERITIES = ("no_AS", "mild_AS", "mildtomod_AS", "moderate_AS", "severe_AS")
_VIEWS = ("PLAX", "PSAX", "A4C", "A2C")
_FIRST = 1000  # number of the first patient


def jobs(counts: dict[str, int], seed: int) -> list[files.Job]:
    """A job a patient and view, named by the first of its two stills; patients are numbered through the splits."""
    patients = [(split, patient) for split in files.SPLITS for patient in range(counts.get(split, 0))]
    return [
        files.Job(f"{number}s1_{2 * clip}", seed, split, patient, clip, view)
        for number, (split, patient) in enumerate(patients, start=_FIRST)
        for clip, view in enumerate(_VIEWS)
    ]


def write_clip(directory: Path, job: files.Job) -> dict:
    """Writes both stills of a view and their truth; returns their rows but for the splits."""
    from PIL import Image

    clip = simulate(views.draw_patient(job), job.view)
    folder = directory / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    view = "A4CorA2CorOther" if job.view == "A2C" and job.patient % 2 else job.view
    severity = str(job.rng(0).choice(SEVERITIES))
    study, _, first = job.name.partition("_")
    listed = []
    for number, frame in enumerate(clip.traced_frames, start=int(first)):
        name = f"{study}_{number}.png"
        Image.fromarray(clip.frames[frame]).save(folder / name)
        listed.append([name, view, severity, FOLDER])
    files.write_truth(directory, job.name, clip.traced_frames, clip.masks[list(clip.traced_frames)])
    return {"split": job.split, "listed": listed, "attributes": files.attributes(job, clip, AS=severity)}


def write_tables(directory: Path, rows: list[dict]) -> None:
    """The three folds."""
    (directory / "DEV479").mkdir(exist_ok=True)
    for fold in range(3):
        lines = []
        for row in rows:
            split = files.SPLITS[(files.SPLITS.index(row["split"]) + fold) % 3]
            lines += [[name, view, severity, split, split, folder] for name, view, severity, folder in row["listed"]]
        files.write_csv(directory / "DEV479" / f"TMED2_fold{fold}_labeledpart.csv", COLUMNS, lines)
