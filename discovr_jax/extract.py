"""A folder of echocardiograms to a table of features.

python -m discovr_jax.extract --checkpoint=runs/adult --input=DIR_OR_CSV --output=features.parquet

Reads what `prepare echo_folder` reads (AVI, MP4, MKV, GIF, DICOM, NIfTI, NPY); a CSV names the files in a column
`path`. As in its records, all but the ultrasound sector is cut off (--whole_frame leaves it). Beside the table:
NAME.card.json (weights, preprocessing) and, where files could not be read, NAME.quarantine.csv with the reasons.
Killed, the same command goes on where it stopped. DICOM is private: its rows are named by row number and a salted
id, and nothing of its header but the geometry of the pixels and the frame rate is read. --show_paths names them,
--hide_paths hides all.
"""

import argparse
import concurrent.futures
import csv
import dataclasses
import json
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np

from discovr_jax.checkpoint import CheckpointError
from discovr_jax.data import private, read, sector
from discovr_jax.data.io.video import Video, VideoError, at_constant_rate
from discovr_jax.inference import Encoder, load_encoder
from discovr_jax.models import readouts

CHUNK = 16  # files that are embedded, and then kept, at a time
DICOM = ".dcm"


class ExtractError(ValueError):
    """Nothing to read or nowhere to write; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Input:
    """One file. row: its place in the input, from 0; id: what the table calls it."""

    path: pathlib.Path
    row: int
    id: str


@dataclasses.dataclass(frozen=True)
class Output:
    """The files that an extraction writes; `partial` holds what is done until all is."""

    table: pathlib.Path

    @property
    def card(self) -> pathlib.Path:
        return self.table.with_suffix(".card.json")

    @property
    def quarantine(self) -> pathlib.Path:
        return self.table.with_suffix(".quarantine.csv")

    @property
    def partial(self) -> pathlib.Path:
        return self.table.with_name(f"{self.table.name}.partial")


def extract(
    encoder: Encoder,
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    show_paths: bool = False,
    hide_paths: bool = False,
    private_dir: str | os.PathLike | None = None,
    use_fps: bool = True,
    whole_frame: bool = False,
    workers: int = 4,
) -> dict:
    """Embed every video of `source` and write the table, one row a video in the order of the input.

    Args:
      encoder: see `load_encoder`.
      source: a folder (searched to its depths), a CSV with a column `path`, or one file.
      output: the .parquet file; columns row, id, format, num_frames, height, width, fps, flags (see
        `data.sector`), features.
      show_paths, hide_paths: name all files by their path, or none; by default all but DICOM.
      private_dir: where the salt and id_map.csv (id, path) are kept, readable by the owner only; the same salt
        gives a file the same id in every table. None: a salt of this table alone, which is thrown away.
      use_fps: sample at the trained frame rate where the file says its own; else at the trained stride.
      whole_frame: embed frames as they are, with whatever the scanner wrote around the sector.
      workers: files decoded at once.

    Returns:
      The model card, with counts.

    Raises:
      ExtractError: no input, or an output of something else in the way.
    """
    out = Output(pathlib.Path(output).absolute())
    if use_fps and not encoder.options["trained_fps"]:
        raise ExtractError(
            "the checkpoint does not say at how many frames per second it was trained: set --trained_fps, or "
            "--ignore_fps to take frames at the trained stride"
        )
    paths, base = _find(pathlib.Path(source))
    _check_private(private_dir, out)
    settings = encoder.card() | {"use_fps": use_fps, "whole_frame": whole_frame, "inputs": len(paths)}
    if out.table.exists():
        return _finished(out, settings)
    salt = _start(out, settings, private_dir)
    inputs = [
        Input(path, row, _identity(path, base, salt, show_paths, hide_paths)) for row, path in enumerate(paths)
    ]
    if private_dir is not None:
        names = {one.id: str(one.path.absolute()) for one in inputs}
        private.write_map(private_dir, private.ID_MAP, "path", names)
    bar = _Progress(len(inputs))
    done = _parts(out)
    bar.update(sum(len(rows) for rows in done.values()))
    todo = [inputs[i : i + CHUNK] for i in range(0, len(inputs), CHUNK)]
    with concurrent.futures.ThreadPoolExecutor(max_workers=workers) as pool:
        waiting = [(number, chunk) for number, chunk in enumerate(todo) if number not in done]
        for number, chunk, videos in _read_ahead(pool, waiting, whole_frame):
            rows = _embed(encoder, chunk, videos, use_fps)
            _write_json(out.partial / f"{number:06d}.json", rows)
            bar.update(len(chunk))
    return _finish(out, settings)


def _find(source: pathlib.Path) -> tuple[list[pathlib.Path], pathlib.Path]:
    """The files to read, sorted (or in the order of the CSV), and the folder that their names count from."""
    if source.is_dir():
        found = [p for p in sorted(source.rglob("*")) if p.is_file() and _is_video(p)]
        if not found:
            known = ", ".join(sorted(read.READERS))
            raise ExtractError(f"--input={source} holds no videos: looked for {known} and DICOM without suffix")
        return found, source
    if not source.is_file():
        raise ExtractError(f"--input={source}: no such file or folder")
    if source.suffix.lower() != ".csv":
        return [source], source.parent
    try:
        with open(source, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            column = next((name for name in reader.fieldnames or () if name.strip().lower() == "path"), None)
            if column is None:
                raise ExtractError(f"--input={source}: its first line names no column 'path'")
            named = [row[column] or "" for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        reason = type(error).__name__
        raise ExtractError(f"--input={source} cannot be read ({reason}): save it as CSV in UTF-8") from None
    if not named:
        raise ExtractError(f"--input={source} names no files")
    return [source.parent / name for name in named], source.parent


def _is_video(path: pathlib.Path) -> bool:
    return read.format_of(path) is not None


def _identity(path: pathlib.Path, base: pathlib.Path, salt: bytes, show: bool, hide: bool) -> str:
    """The path below the input, or for a private file a keyed hash of it that only the salt's owner can redo."""
    name = path.relative_to(base).as_posix() if path.is_relative_to(base) else path.as_posix()
    # What is unknown or missing is not shown either: its name may be a patient's.
    secret = hide or read.format_of(path) in (None, DICOM)
    if show or not secret:
        return name
    return private.salted_id(salt, name)


def _check_private(private_dir, out: Output) -> None:
    if private_dir is not None and pathlib.Path(private_dir).absolute() == out.table.parent:
        raise ExtractError(f"--private_dir={private_dir} is the output's folder: ids and names must be kept apart")


def _start(out: Output, settings: dict, private_dir) -> bytes:
    """Begin, or go on with, a partial extraction; returns the salt.

    Raises:
      ExtractError: what is there was made with other weights, settings or inputs.
    """
    out.partial.mkdir(parents=True, exist_ok=True)
    begun = out.partial / "settings.json"
    if not begun.exists():
        _write_json(begun, settings)
    elif json.loads(begun.read_text()) != json.loads(json.dumps(settings)):
        raise ExtractError(
            f"{out.partial} was begun with other weights, settings or inputs: remove it, or choose another --output"
        )
    return private.open_salt(out.partial if private_dir is None else private_dir)


def _read_ahead(pool, chunks, whole_frame: bool) -> Iterator[tuple[int, Sequence[Input], list]]:
    """Each chunk with its videos (or errors), the next one being read meanwhile."""
    ahead = None
    for number, chunk in [*chunks, (None, [])]:
        begun = (number, chunk, [pool.submit(_read, one.path, whole_frame) for one in chunk])
        if ahead is not None:
            yield ahead[0], ahead[1], [future.result() for future in ahead[2]]
        ahead = begun


def _read(path: pathlib.Path, whole_frame: bool) -> tuple[Video, set[str], tuple] | str:
    """A video, its flags and the shape that it has in the file; or why it cannot be read, without its path."""
    try:
        video = at_constant_rate(path, read.read_video(path))
        kept, flags = (video, set(video.flags)) if whole_frame else sector.isolate_video(video)
        return kept, flags, video.frames.shape
    except VideoError as error:
        return str(error).replace(f"{path}: ", "").replace(str(path), "the file")
    except Exception as error:  # one odd file must not end a night's work; its kind says enough
        return f"unreadable ({type(error).__name__})"


def _embed(encoder: Encoder, chunk: Sequence[Input], videos: list, use_fps: bool) -> list[dict]:
    """Rows of the table, JSON values; a row that could not be made holds `reason` instead of `features`."""
    rows, good = [], []
    for one, found in zip(chunk, videos, strict=True):
        row = {"row": one.row, "id": one.id, "format": (read.format_of(one.path) or "").lstrip(".")}
        if isinstance(found, str):
            rows.append(row | {"reason": found})
            continue
        video, flags, (length, height, width) = found
        fps = video.fps if np.isfinite(video.fps) else None
        row |= {"num_frames": length, "height": height, "width": width, "fps": fps, "flags": " ".join(sorted(flags))}
        rows.append(row)
        good.append((row, video, fps if use_fps else None))
    if good:
        features = encoder.embed(
            [video.frames for _, video, _ in good],
            fps=[fps for _, _, fps in good],
            spacing=[video.pixel_size for _, video, _ in good],
        )
        for (row, _, _), vector in zip(good, features, strict=True):
            row["features"] = vector.tolist()  # a float32 survives the way through JSON bit for bit
    return rows


def _parts(out: Output) -> dict[int, list[dict]]:
    """Rows by the number of their chunk, as far as they are done."""
    return {int(path.stem): json.loads(path.read_text()) for path in sorted(out.partial.glob("0*.json"))}


def _finish(out: Output, settings: dict) -> dict:
    """Table, card and quarantine list from the parts; the table, which says that all is done, comes last."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [row for _, part in sorted(_parts(out).items()) for row in part]
    good = [row for row in rows if "features" in row]
    bad = [row for row in rows if "features" not in row]
    if not good:
        shutil.rmtree(out.partial)  # another try reads them again
        raise ExtractError(f"none of the {len(rows)} files could be read; the first: {bad[0]['reason']}")
    width = settings["features"]
    schema = pa.schema(
        {
            "row": pa.int32(),
            "id": pa.string(),
            "format": pa.string(),
            "num_frames": pa.int32(),
            "height": pa.int32(),
            "width": pa.int32(),
            "fps": pa.float32(),
            "flags": pa.string(),
            "features": pa.list_(pa.float32(), width),
        }
    )
    card = settings | {"rows": len(good), "quarantined": len(bad)}
    out.quarantine.unlink(missing_ok=True)
    if bad:
        with open(out.quarantine, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["row", "id", "format", "reason"])
            writer.writeheader()
            writer.writerows(bad)
    _write_json(out.card, card, indent=1)
    temporary = out.partial / "table.parquet"
    pq.write_table(pa.Table.from_pylist(good, schema=schema), temporary)
    os.replace(temporary, out.table)
    shutil.rmtree(out.partial)
    return card


def _finished(out: Output, settings: dict) -> dict:
    """The card of a table that is there already, if this command made it."""
    card = json.loads(out.card.read_text()) if out.card.exists() else {}
    if any(card.get(key) != value for key, value in json.loads(json.dumps(settings)).items()):
        raise ExtractError(
            f"--output={out.table} exists, from other weights, settings or inputs: choose another, or remove it"
        )
    return card


def _write_json(path: pathlib.Path, value, indent: int | None = None) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=indent) + "\n")
    os.replace(temporary, path)


class _Progress:
    """How far, on stderr: a line that is rewritten on a terminal, else one every tenth."""

    def __init__(self, total: int):
        self._total, self._done, self._begun, self._told = total, 0, time.monotonic(), 0

    def update(self, count: int) -> None:
        self._done += count
        share, seconds = self._done / self._total, time.monotonic() - self._begun
        text = f"{self._done} of {self._total} files  {100 * share:3.0f} %  {seconds:.0f} s"
        if sys.stderr.isatty():
            filled = int(30 * share)
            end = "\n" if self._done == self._total else ""
            print(f"\r[{'#' * filled}{'.' * (30 - filled)}] {text}", end=end, file=sys.stderr, flush=True)
        elif int(10 * share) > self._told:
            self._told = int(10 * share)
            print(text, file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 if a table was written, 1 with the reason on stderr if not."""
    args = _parser().parse_args(argv)
    try:
        encoder = load_encoder(
            args.checkpoint,
            args.branch,
            readout=args.readout,
            clips=args.clips,
            fit=args.fit,
            trained_fps=args.trained_fps,
            dtype=args.dtype,
            batch_size=args.batch_size,
        )
        card = extract(
            encoder,
            args.input,
            args.output,
            show_paths=args.show_paths,
            hide_paths=args.hide_paths,
            private_dir=args.private_dir,
            use_fps=not args.ignore_fps,
            whole_frame=args.whole_frame,
            workers=args.workers,
        )
    except (ValueError, CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{card['rows']} rows of {card['features']} features in {args.output}")
    if card["quarantined"]:
        print(f"{card['quarantined']} files could not be read: see {Output(pathlib.Path(args.output)).quarantine}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m discovr_jax.extract",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", required=True, help="workdir, converted checkpoint, checkpoints/step_N, .pth, .safetensors")
    add("--input", required=True, help="folder, CSV with a column path, or one file")
    add("--output", required=True, help="the .parquet file")
    add("--branch", default="video_teacher", help="encoder of the checkpoint (default: %(default)s)")
    add("--readout", default="cls", choices=readouts.NAMES, help="features of a clip (default: %(default)s)")
    add("--clips", type=int, default=3, help="evenly spaced clips that are averaged (default: %(default)s)")
    add("--fit", default="letterbox", choices=("letterbox", "squeeze"), help="how frames are made square")
    add("--trained_fps", type=float, help="frame rate of the training clips, where the checkpoint does not say")
    add("--ignore_fps", action="store_true", help="take frames at the trained stride whatever their rate")
    add("--whole_frame", action="store_true", help="embed all that is on the screen, not the sector alone")
    add("--dtype", default="float32", choices=("float32", "bfloat16"), help="of activations")
    add("--batch_size", type=int, default=8, help="clips a batch (default: %(default)s)")
    add("--workers", type=int, default=4, help="files decoded at once (default: %(default)s)")
    add("--private_dir", help="keep the salt of the ids and id_map.csv here, apart from the output")
    names = parser.add_mutually_exclusive_group()
    names.add_argument("--show_paths", action="store_true", help="name DICOM files by their path")
    names.add_argument("--hide_paths", action="store_true", help="name no file by its path")
    return parser


if __name__ == "__main__":
    sys.exit(main())
