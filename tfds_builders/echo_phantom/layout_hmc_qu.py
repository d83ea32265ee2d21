"""HMC-QU's layout: two views per patient on a scanner's screen, and which segments of the wall had an infarction.

DIRECTORY/
  A4C.csv, A2C.csv                    a row a video: ECHO, six segments (MI or non-MI); sheets of the download, as CSV
  HMC-QU/A4C/ES<4 digits> _4CH_1.avi  HMC-QU/A2C/ES<4 digits>_CH2_1.avi
  hmcqu_split.csv                     ours: the splits asked for, as CardioBench's table has them

Patients of an EF below 50 have an infarction of one segment, which shows in the EF alone.
"""

from pathlib import Path

from tfds_builders.echo_phantom import files, screen, views
from tfds_builders.echo_phantom.simulator import simulate

SIMULATOR_VERSION = 1
SEGMENTS = tuple(f"SEG{number}" for number in range(1, 7))
NORMAL_EF = 50
_NAMES = {"A4C": "{} _4CH_1", "A2C": "{}_CH2_1"}


def jobs(counts: dict[str, int], seed: int) -> list[files.Job]:
    """Two clips per patient, named as their records; patients are numbered through the splits."""
    patients = [(split, patient) for split in files.SPLITS for patient in range(counts.get(split, 0))]
    return [
        files.Job(f"ES{number:04d}_{view}", seed, split, patient, clip, view)
        for number, (split, patient) in enumerate(patients, start=1)
        for clip, view in enumerate(_NAMES)
    ]


def write_clip(directory: Path, job: files.Job) -> dict:
    """Writes one video and its truth; returns its row of the view's sheet."""
    params = views.draw_patient(job)
    clip = simulate(params, job.view)
    place = screen.Screen(240, 320, 1.75, top=8, left=62)
    beats = [beat.start for beat in params.beats]
    shown = screen.annotate(place.show(clip.frames), [f"{clip.fps:.0f}Hz"], beats, len(clip.frames) / clip.fps)
    name = _NAMES[job.view].format(job.name.partition("_")[0])
    folder = directory / "HMC-QU" / job.view
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.avi").write_bytes(files.encode_avi(shown[..., 0], clip.fps))
    sector = place.sector(params)
    masks = place.show_labels(clip.masks[list(clip.traced_frames)])
    files.write_truth(directory, job.name, clip.traced_frames, masks, sector=sector)
    cells = ["non-MI"] * len(SEGMENTS)
    if infarction := params.ef < NORMAL_EF:
        cells[int(job.rng(0).integers(len(SEGMENTS)))] = "MI"
    return {
        "view": job.view, "listed": [name, *cells], "split": [job.name, job.split],
        "attributes": files.attributes(job, clip, EF=clip.ef, Infarction=int(infarction)),
    }  # fmt: skip


def write_tables(directory: Path, rows: list[dict]) -> None:
    """Both sheets, and the splits."""
    for view in _NAMES:
        lines = [row["listed"] for row in rows if row["view"] == view]
        files.write_csv(directory / f"{view}.csv", ("ECHO", *SEGMENTS), lines)
    files.write_csv(directory / "hmcqu_split.csv", ("unique_id", "split"), [row["split"] for row in rows])
