"""EchoNet-LVH's layout: one parasternal long-axis clip per patient, with linear measurements.

DIRECTORY/
  MeasurementsList.csv            a row a measurement: IVSd, LVIDd, LVPWd at end-diastole, LVIDs at end-systole
  Batch1/ ... Batch4/0X<hex>.avi  MJPEG, of a size that differs from clip to clip

Ends of a measurement are in pixels of the video, point 1 the left-most; the three of end-diastole lie on one line.
"""

from pathlib import Path

import numpy as np

from tfds_builders.echo_phantom import files, screen, ventricle, views
from tfds_builders.echo_phantom.simulator import simulate

SIMULATOR_VERSION = 1
COLUMNS = (
    "", "HashedFileName", "Calc", "CalcValue", "Frame", "X1", "X2", "Y1", "Y2", "Frames", "FPS", "Width", "Height",
    "split",
)  # fmt: skip
_SIZES = ((240, 320), (264, 352), (288, 384))  # height, width of the screen


def jobs(counts: dict[str, int], seed: int) -> list[files.Job]:
    """One clip per patient."""
    return [
        files.Job("0X" + files.pseudonym(seed, split, index).upper(), seed, split, index, view="PLAX")
        for split in files.SPLITS
        for index in range(counts.get(split, 0))
    ]


def write_clip(directory: Path, job: files.Job) -> dict:
    """Writes one video and its truth; returns its measurements."""
    params = views.draw_patient(job)
    clip = simulate(params, job.view)
    height, width = _SIZES[job.patient % len(_SIZES)]
    scale = (height - 16) / clip.frames.shape[1]
    place = screen.Screen(height, width, scale, top=8, left=round((width - height + 16) / 2))
    batch = directory / f"Batch{job.patient % 4 + 1}"
    batch.mkdir(exist_ok=True)
    (batch / f"{job.name}.avi").write_bytes(files.encode_avi(place.show(clip.frames), clip.fps))
    ends = {
        frame: {
            name: place.points(ventricle.to_image(points, clip.poses[frame]))
            for name, points in clip.heart.lines(clip.contraction[frame]).items()
        }
        for frame in clip.traced_frames
    }
    calcs = {
        "IVSd": ("IVS", clip.ed_frame), "LVIDd": ("LVID", clip.ed_frame), "LVPWd": ("LVPW", clip.ed_frame),
        "LVIDs": ("LVID", clip.es_frame),
    }  # fmt: skip
    measured, values = [], {}
    for calc, (name, frame) in calcs.items():
        first, second = sorted(ends[frame][name].tolist())
        centimetres = float(np.hypot(*np.subtract(first, second)) / scale * params.mm_per_pixel / 10)
        values[calc] = round(centimetres, 2)
        corners = (round(value, 1) for value in (first[0], second[0], first[1], second[1]))
        measured.append([
            job.name, calc, values[calc], frame, *corners, len(clip.frames), clip.fps, width, height, job.split,
        ])  # fmt: skip
    masks = place.show_labels(clip.masks[list(clip.traced_frames)])
    files.write_truth(directory, job.name, clip.traced_frames, masks, sector=place.sector(params))
    return {"measured": measured, "attributes": files.attributes(job, clip, EF=clip.ef, **values)}


def write_tables(directory: Path, rows: list[dict]) -> None:
    """MeasurementsList.csv, whose first column has no name and counts the rows."""
    lines = [line for row in rows for line in row["measured"]]
    numbered = [[number, *line] for number, line in enumerate(lines)]
    files.write_csv(directory / "MeasurementsList.csv", COLUMNS, numbered)
