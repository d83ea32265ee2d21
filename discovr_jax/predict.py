"""A folder of echocardiograms to a table of predictions. For research use only; not a medical device.

python -m discovr_jax.predict --workdir=runs/adult --input=DIR_OR_FILE --output=predictions.parquet [--pictures=DIR]

The heads are those that the run's own evaluation fitted and scored. Files are read, listed and named as by
`discovr_jax.extract`; colour Doppler is skipped. One row per video: measurements with 90 % prediction intervals,
calibrated probability, anomaly score, masks of the left ventricle at end-diastole and end-systole (PNG), the most
similar training videos, and `out_of_distribution`: numbers of such videos are withheld. --dicom=DIR writes a Structured
Report and a Segmentation per DICOM file, which name its patient.
Where files name their study (DICOM, or a column `study_id` of a CSV), NAME.studies.parquet holds means over clips.
"""

import argparse
import io
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from discovr_jax import extract as extract_lib
from discovr_jax import storage
from discovr_jax.data import private, read, sector
from discovr_jax.data.inputs import Input
from discovr_jax.data.io.video import Video
from discovr_jax.dicom_output import files as dicom_files
from discovr_jax.dicom_output.algorithm import Algorithm
from discovr_jax.evaluation import interface
from discovr_jax.evaluation.features import video_table
from discovr_jax.evaluation.fitted_heads import RESEARCH_USE
from discovr_jax.inference import VideoEncoder, load_encoder
from discovr_jax.prediction_pictures import measured, picture
from discovr_jax.predictor import PHASES, Measurement, Prediction
from discovr_jax.progress import doing
from discovr_jax.runs.checkpoint import CheckpointError
from discovr_jax.unsuited_videos import DOPPLER

_OF_HEADS = ("step", "dataset", "label_rule", "heads", "out_of_distribution")  # what the card says of them
_ENDS = ("", "_low", "_high")  # of the names of a measurement's columns
_MOST_TOLD = 20  # rows that are told on the terminal too
_NUMBERS = ("probability_abnormal", "neighbour_vote", "anomaly_score", "anomaly_threshold", "distance")


def predict(
    encoder: VideoEncoder,
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    pictures: str | os.PathLike | None = None,
    dicom: str | os.PathLike | None = None,
    show_out_of_distribution: bool = False,
    show_paths: bool = False,
    hide_paths: bool = False,
    private_dir: str | os.PathLike | None = None,
    csv: str | os.PathLike | None = None,
    use_fps: bool = True,
    whole_frame: bool = False,
    workers: int = 4,
) -> dict:
    """Predict for every video of `source` and write the tables, one row per video in the order of the input.

    Args:
      encoder: see `load_encoder`.
      output: the .parquet file; its columns are in docs/predict.md.
      pictures: folder for a PNG per video, ROW.png: the outlines over both frames. Pictures show the patient's heart.
      dicom: folder for a Structured Report and a Segmentation per DICOM file, ROW.sr.dcm and ROW.seg.dcm. They carry
        the patient and study of the file.
      show_out_of_distribution: also numbers of videos unlike those of training.
      others: as of `extract.extract`.

    Returns:
      The card, with counts.

    Raises:
      HeadsError: the evaluation kept no heads, or they are of other weights.
      DicomError: DICOM files cannot be written, or some that were are gone.
      InputError, ExtractError: as `extract.extract`.
    """
    heads = encoder.predictor.heads
    extract_lib.check_frame_rate(encoder, use_fps)
    out = video_table.open_table(
        output, lambda _: _types(heads.of_kind("regression"), dicom is not None), RESEARCH_USE
    )
    folder, reports = (None if each is None else pathlib.Path(each) for each in (pictures, dicom))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    if reports is not None:
        dicom_files.start(reports, begun=out.partial.exists() or out.table.exists())
    algorithm = Algorithm.of(encoder)

    def add_predictions(usable: list[tuple[dict, tuple, Input]]) -> None:
        videos = [file[0] for _, file, _ in usable]
        predictions = encoder.predict(
            [video.frames for video in videos],
            fps=[extract_lib.rate(row, use_fps) for row, _, _ in usable],
            spacing=[video.pixel_size for video in videos],
            show_out_of_distribution=show_out_of_distribution,
        )
        for (row, file, one), prediction in zip(usable, predictions, strict=True):
            masks = _masks(prediction, file)
            row |= _columns(prediction, masks)
            if folder is not None:
                (folder / f"{row['row']:06d}.png").write_bytes(picture(file[0].frames, prediction))
            if reports is not None and (one.path is None or one.format != "dcm"):
                row[dicom_files.COLUMN] = dicom_files.NOT_DICOM
            elif reports is not None:
                row[dicom_files.COLUMN] = dicom_files.write(
                    reports, one.row, one.path, *file[:2], masks, prediction, algorithm
                )

    def make(chunk: Sequence[Input], files: list, salt: bytes) -> list[dict]:
        rows = [extract_lib.row_of(one, file) for one, file in zip(chunk, files, strict=True)]
        usable = []
        for one, file, row in zip(chunk, files, rows, strict=True):
            if "list" not in row and _shows_doppler(*file[:2]):
                row["list"], row["reason"] = video_table.SKIPPED, DOPPLER
            elif "list" not in row:
                row["study"] = _study(one, salt, show_paths)
                usable.append((row, file, one))
        extract_lib.together_or_alone(add_predictions, usable, "nothing can be predicted")
        return rows

    settings = encoder.card() | {
        "notice": RESEARCH_USE, "use_fps": use_fps, "show_out_of_distribution": show_out_of_distribution,
        "heads": {name: heads.about[name] for name in _OF_HEADS},
    }  # fmt: skip
    settings |= {} if reports is None else {"dicom": True}  # a table without it has no such column
    card = video_table.write_table(
        out, source, settings, make,
        show_paths=show_paths, hide_paths=hide_paths, private_dir=private_dir, csv=csv, whole_frame=whole_frame,
        workers=workers,
    )  # fmt: skip
    write_studies(out.table, heads.of_kind("regression"))
    return card if reports is None else card | {"dicom": dicom_files.count(out.table, reports)}


def told(table: pathlib.Path, card: dict) -> list[str]:
    """A table of predictions in words, a line per row, by its number: names of files stay in the table.

    Args:
      card: of `predict`.
    """
    fields = {name: head["field"] for name, head in card["heads"]["heads"].items() if head["kind"] == "regression"}
    lines = []
    for row in pq.read_table(table).to_pylist():
        said = [
            measured(Measurement(field, interface.MEASUREMENTS[field][1], *(row[f"{name}{end}"] for end in _ENDS)))
            for name, field in fields.items()
            if row[name] is not None
        ]
        if row["probability_abnormal"] is not None:
            said.append(f"probability of abnormal {row['probability_abnormal']:.2f}")
        if row["out_of_distribution"]:
            said.insert(0, f"out of distribution{'' if said else ', numbers withheld'}: {row['why']}")
        lines.append(f"row {row['row']}: {'; '.join(said)}")
    return lines


def _shows_doppler(video: Video, flags: set[str]) -> bool:
    if video.colour is None or "colour_doppler" in flags:  # `sector.isolate_at` has looked, or the file says so
        return "colour_doppler" in flags
    return sector.shows_doppler(video.colour, sector.find_sector(video.frames, video.colour))


def studies_of(table: pathlib.Path) -> pathlib.Path:
    """The second table, one row per study, beside a table of predictions."""
    return table.with_suffix(".studies.parquet")


def write_studies(table: pathlib.Path, measurements: Sequence[str]) -> None:
    """Means over the clips of each study whose numbers are not withheld; no file without a study."""
    import pandas as pd

    numbers = [*measurements, *_NUMBERS[:3]]
    frame = pq.read_table(table, columns=["study", "out_of_distribution", *numbers]).to_pandas()
    frame = frame[frame["study"].notna()]
    path = studies_of(table)
    path.unlink(missing_ok=True)
    if frame.empty:
        return
    grouped = frame.groupby("study", sort=True)
    means = pd.concat(
        [grouped.size().rename("clips"), grouped["out_of_distribution"].sum().astype(int), grouped[numbers].mean()],
        axis=1,
    ).reset_index()
    means["notice"] = RESEARCH_USE
    rows = pa.Table.from_pandas(means, preserve_index=False)
    pq.write_table(rows.replace_schema_metadata({"notice": RESEARCH_USE}), path)


def _types(measurements: Sequence[str], dicom: bool) -> dict[str, Any]:
    """Columns of a prediction."""
    columns: dict[str, Any] = {"study": pa.string(), "out_of_distribution": pa.bool_(), "why": pa.string()}
    columns |= {f"{part}{end}": pa.float64() for part in measurements for end in _ENDS}
    columns |= dict.fromkeys((*_NUMBERS, "distance_threshold"), pa.float64())
    columns |= {"nearest": pa.list_(pa.string()), "nearest_similarity": pa.list_(pa.float32())}
    for phase in PHASES:
        columns |= {f"lv_{phase}_frame": pa.int32(), f"lv_{phase}_mask_png": pa.binary()}
    columns |= {dicom_files.COLUMN: pa.string()} if dicom else {}
    return columns | {"notice": pa.string()}


def _masks(prediction: Prediction, file: tuple) -> dict[str, np.ndarray]:
    """{"ed": , "es": }: outlines as masks of the file's whole frames, bool [H, W]."""
    _, _, (_, height, width), (top, left) = file
    masks = {}
    for phase, outline in prediction.outlines.items():
        whole = np.zeros((height, width), bool)
        rows, columns = outline.mask.shape
        whole[top : top + rows, left : left + columns] = outline.mask
        masks[phase] = whole
    return masks


def _columns(prediction: Prediction, masks: dict[str, np.ndarray]) -> dict[str, Any]:
    """A prediction as values of the table; NaN is null."""
    row: dict[str, Any] = {"out_of_distribution": prediction.out_of_distribution, "why": "; ".join(prediction.reasons)}
    for part, one in prediction.measurements.items():
        row |= {part: one.value, f"{part}_low": one.low, f"{part}_high": one.high}
    row |= {name: getattr(prediction, name) for name in (*_NUMBERS, "distance_threshold")}
    row = {name: None if isinstance(value, float) and np.isnan(value) else value for name, value in row.items()}
    row["nearest"] = [name for name, _ in prediction.nearest]
    row["nearest_similarity"] = [similarity for _, similarity in prediction.nearest]
    for phase, mask in masks.items():
        row |= {f"lv_{phase}_frame": prediction.outlines[phase].frame, f"lv_{phase}_mask_png": _png(mask)}
    return row | {"notice": prediction.notice}


def _study(one: Input, salt: bytes, show: bool) -> str | None:
    """What a file's study is called: a keyed hash, unless names are shown."""
    name = one.study or (read.study_of(one.path) if one.path is not None else "")
    return (name if show else private.salted_id(salt, f"study {name}")) if name else None


def _png(mask: np.ndarray) -> bytes:
    """bool [H, W] as a PNG of one bit per pixel."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG", optimize=True)
    return file.getvalue()


@doing("predicting")
def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 if a table was written, 1 with the reason on stderr if not."""
    args = _parser().parse_args(storage.expand_home(argv))
    print(RESEARCH_USE)
    try:
        card = predict(
            load_encoder(args.workdir, trained_fps=args.trained_fps),
            args.input,
            args.output,
            pictures=args.pictures,
            dicom=args.dicom,
            show_out_of_distribution=args.show_out_of_distribution,
            show_paths=args.show_paths,
            hide_paths=args.hide_paths,
            private_dir=args.private_dir,
            csv=args.csv,
            use_fps=not args.ignore_fps,
            whole_frame=args.whole_frame,
            workers=args.workers,
        )
    except (ValueError, CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    table = pathlib.Path(args.output)
    strange = pq.read_table(table, columns=["out_of_distribution"])["out_of_distribution"].to_pylist()
    if card["rows"] <= _MOST_TOLD:
        print(*told(table, card), sep="\n")
    print(f"{card['rows']} {'row' if card['rows'] == 1 else 'rows'} in {table}, {sum(strange)} out of distribution")
    if studies_of(table).exists():
        print(f"means per study: {studies_of(table)}")
    for what, number in card.get("dicom", {}).items():
        print(f"DICOM in {args.dicom}: {number} {what}")
    extract_lib.tell_lists(card, table)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m discovr_jax.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--workdir", required=True, help="a run that was evaluated: its newest checkpoint predicts")
    add("--input", required=True, help="folder, CSV with a column path (and fps, study_id), or one file")
    add("--output", required=True, help="the .parquet file")
    add("--pictures", help="folder for a PNG per video, outlines over end-diastole and end-systole")
    add("--dicom", help="folder for a report and a segmentation per DICOM file; they name its patient")
    add("--show_out_of_distribution", action="store_true", help="numbers of videos unlike those of training too")
    add("--trained_fps", type=float, help="frame rate of the training clips, where the checkpoint does not say")
    extract_lib.add_file_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
