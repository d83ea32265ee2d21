"""A folder of echocardiograms to a table of features.

python -m discovr_jax.extract --checkpoint=runs/adult --input=DIR_OR_CSV --output=features.parquet
python -m discovr_jax.extract --encoder=untrained:0 --config=phantom --input=DIR_OR_CSV --output=untrained.parquet
python -m discovr_jax.extract --encoder=torch:echoprime --loader=FILE.py --weights=FILE --input=... --output=...

Reads what `prepare echo_folder` reads, by the same rule; a CSV names the files, below its own folder, in a column
`path`. Frames per second of files that do not say them stand in a column `fps`: of that CSV, or of the one that
`prepare` took of the folder (--csv). As in its records, all but the ultrasound sector is cut off (--whole_frame leaves
it). Beside the table: NAME.card.json (weights, preprocessing), NAME.quarantine.csv (files that could not be read, with
the reasons) and NAME.skipped.csv (sound files that hold no clip: stills and the like).
Killed, the same command goes on where it stopped. Several processes share the work, also on several machines with a
common disk: each gets the same command and --shard=1/N to --shard=N/N. The one that ends last writes the table.
DICOM is private: its rows are named by row number and a salted id, and nothing of its header but the geometry of the
pixels and the frame rate is read. --show_paths names them, --hide_paths hides all.
--encoder gives the baselines of the same clips: initial weights, or what is read from pixels without a network. The
clips are those of --checkpoint, or of a config, which may be changed: --config=phantom --config.data.image_size=64.
torch:NAME is an encoder of others, which a function of yours builds: docs/how-to/other_encoders.md.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Callable, Sequence

import numpy as np

from discovr_jax import command_line, storage
from discovr_jax.data import file_listing, frame_rates
from discovr_jax.data.inputs import Input
from discovr_jax.evaluation.features import pixels, video_table
from discovr_jax.evaluation.features.feature_table import FeatureTable
from discovr_jax.evaluation.features.video_table import QUARANTINE, SKIPPED, ExtractError, Shard
from discovr_jax.inference import VideoEncoder, load_encoder
from discovr_jax.models import readouts
from discovr_jax.outside_encoders.encoder import OutsideEncoder
from discovr_jax.outside_encoders.known import KNOWN
from discovr_jax.pixel_encoder import PixelEncoder
from discovr_jax.progress import doing
from discovr_jax.runs.checkpoint import CheckpointError

CHECKPOINT, PIXELS, TORCH = "checkpoint", "pixels", "torch"  # values of --encoder, besides untrained:SEED
OF_OUR_ENCODERS = ("checkpoint", "config", "branch", "readout", "fit", "trained_fps", "ignore_fps", "dtype")
AnyEncoder = VideoEncoder | PixelEncoder | OutsideEncoder


def extract(
    encoder: AnyEncoder,
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    show_paths: bool = False,
    hide_paths: bool = False,
    private_dir: str | os.PathLike | None = None,
    csv: str | os.PathLike | None = None,
    use_fps: bool = True,
    whole_frame: bool = False,
    workers: int = 4,
    shard: Shard | None = None,
) -> dict:
    """Embed every video of `source` and write the table, one row per video in the order of the input.

    Args:
      encoder: see `load_encoder`, `PixelEncoder` and `OutsideEncoder`.
      source: a folder (searched to its depths), a CSV with a column `path`, or one file.
      output: the .parquet file; columns row, id, format, num_frames, height, width, fps, flags (see
        `data.sector`), features.
      show_paths, hide_paths: name all files by their path, or none; by default all but DICOM.
      private_dir: where the salt and id_map.csv (id, path) are kept, readable by the owner only; the same salt
        gives a file the same id in every table. None: a salt of this table alone, which is thrown away.
      csv: what is known of the files of a folder, see `data.inputs.find`; its frame rates go before the files' own.
      use_fps: sample at the trained frame rate where that of the file is known; else at the trained stride, unless the
        encoder was trained at a set frame rate: such files go on the quarantine list. An encoder
        whose `uses_fps` is False takes frames by their number, whatever this says.
      whole_frame: embed frames as they are, with whatever the scanner wrote around the sector.
      workers: files decoded at once.
      shard: which this is of several processes that share the work, all with the same `output`; the one that ends
        last writes it. None: the only process; where others have begun shards, it writes the table if all are done.

    Returns:
      The model card, with counts; of a shard that ends before others without counts, and with "unfinished_shards".

    Raises:
      InputError: no input, or a CSV that cannot be read.
      ExtractError: no file gave features; an output of something else is in the way; another process writes the same;
        or, without `shard`, some shards are not done.
    """
    use_fps = use_fps and encoder.uses_fps
    check_frame_rate(encoder, use_fps)

    def make(chunk: Sequence[Input], videos: list, _: bytes) -> list[dict]:
        return _embed(encoder, chunk, videos, use_fps)

    return video_table.write_table(
        video_table.open_table(output), source, encoder.card() | {"use_fps": use_fps}, make,
        show_paths=show_paths, hide_paths=hide_paths, private_dir=private_dir, csv=csv, whole_frame=whole_frame,
        workers=workers, shard=shard,
    )  # fmt: skip


def check_frame_rate(encoder: AnyEncoder, use_fps: bool) -> None:
    """Raises ExtractError if frames are to be taken at a rate that the checkpoint does not say."""
    if use_fps and not encoder.options["trained_fps"]:
        raise ExtractError(
            "the checkpoint does not say at how many frames per second it was trained"
            f"{frame_rates.in_words(encoder.frame_rates)}: set --trained_fps, or --ignore_fps to take frames at "
            f"the stride of the training, {encoder.options['stride']}"
        )


def _embed(encoder: AnyEncoder, chunk: Sequence[Input], videos: list, use_fps: bool) -> list[dict]:
    """Rows of the table without their id; one that could not be made holds `list` and `reason`, no `features`."""
    rows, good = [], []
    for one, result in zip(chunk, videos, strict=True):
        row = row_of(one, result)
        rows.append(row)
        if "list" not in row:
            good.append((row, result[0], rate(row, use_fps)))
    together_or_alone(lambda some: _add_features(encoder, some), good, "it cannot be embedded")
    return rows


def together_or_alone(add: Callable[[list], None], good: list[tuple], problem: str) -> None:
    """`add` to all rows (the first of each tuple) at once; if one of them is refused, to each by itself."""
    try:
        if good:
            add(good)
    except ValueError:
        for each in good:
            try:
                add([each])
            except ValueError as error:
                each[0]["list"], each[0]["reason"] = QUARANTINE, f"{problem}: {error}"


def row_of(one: Input, file: tuple) -> dict:
    """What every table says of a file, of which `input_videos` says this; `list` and `reason` if it is no video."""
    row = {"row": one.row, "format": one.format}
    if len(file) == 2:
        return row | dict(zip(("list", "reason"), file, strict=True))
    video, flags, (length, height, width), _ = file
    fps = video.fps if np.isfinite(video.fps) else None
    return row | {
        "num_frames": length, "height": height, "width": width, "fps": fps, "flags": " ".join(sorted(flags))
    }  # fmt: skip


def rate(row: dict, use_fps: bool) -> float | None:
    """Frames per second of a row for `VideoEncoder.embed`: NaN if unknown, None where they are not to be used."""
    return (np.nan if row["fps"] is None else row["fps"]) if use_fps else None


def _add_features(encoder: AnyEncoder, good: list) -> None:
    features = encoder.embed(
        [video.frames for _, video, _ in good],
        fps=[fps for _, _, fps in good],
        spacing=[video.pixel_size for _, video, _ in good],
    )
    for (row, _, _), vector in zip(good, features, strict=True):
        row["features"] = vector


@doing("extracting features")
def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 if a table or its shard of one was written, 1 with the reason on stderr if not."""
    args, overrides = _parser().parse_known_args(storage.expand_home(argv))
    try:
        shard = None if args.shard is None else Shard.parse(args.shard)
        encoder = open_encoder(args, overrides)
        card = extract(
            encoder, args.input, args.output, show_paths=args.show_paths, hide_paths=args.hide_paths,
            private_dir=args.private_dir, csv=args.csv, use_fps=not args.ignore_fps, whole_frame=args.whole_frame,
            workers=args.workers, shard=shard,
        )  # fmt: skip
    except (ValueError, CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if unfinished := card.get(video_table.UNFINISHED):
        print(f"shard {shard} is done; not yet: {video_table.in_words(unfinished)}. The last one writes {args.output}")
        return 0
    print(f"{card['rows']} rows of {card['features']} features in {args.output}")
    tell_lists(card, pathlib.Path(args.output))
    return 0


def tell_lists(card: dict, table: pathlib.Path) -> None:
    """Says on the terminal which files gave no row."""
    out = FeatureTable(table)
    if card["quarantined"]:
        print(f"{_files(card['quarantined'])} could not be read: see {out.list_of(QUARANTINE)}")
    if card["skipped"]:
        listed = out.list_of(SKIPPED)
        print(f"{_files(card['skipped'])} without a moving B-mode clip (stills, Doppler and the like): see {listed}")
    if card["not_read"]:
        print(f"not read: {file_listing.in_words(card['not_read'])}")


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def open_encoder(args: argparse.Namespace, overrides: list[str]) -> AnyEncoder:
    """The encoder that the arguments of the command name.

    Args:
      overrides: what the parser does not know, `--config.KEY=VALUE`.

    Raises:
      ExtractError: arguments that do not fit each other; and as `load_encoder`, `OutsideEncoder` and
        `command_line.read_config`.
    """
    kind, _, seed = args.encoder.partition(":")
    if kind == TORCH:
        if not (args.loader and args.weights):
            raise ExtractError(f"--encoder={args.encoder}: give --loader and --weights")
        if ours := [f"--{name}" for name in OF_OUR_ENCODERS if getattr(args, name)] + overrides:
            raise ExtractError(f"--encoder={args.encoder}: {' '.join(ours)} is for our own encoders only")
        return OutsideEncoder(seed, args.loader, args.weights, args.clips, args.batch_size)
    if kind == "untrained" and seed.isdecimal():
        untrained: int | None = int(seed)
    elif args.encoder in (CHECKPOINT, PIXELS):
        # Pixels take the clips of an encoder, whose weights do not matter.
        untrained = 0 if args.encoder == PIXELS and args.config else None
    else:
        raise ExtractError(f"--encoder={args.encoder}: it is {CHECKPOINT}, untrained:SEED, {PIXELS} or {TORCH}:NAME")
    if (args.checkpoint is None) == (args.config is None):
        raise ExtractError("give --checkpoint, or (for untrained weights and pixels) --config: one of them")
    if args.loader or args.weights:
        raise ExtractError("--loader and --weights are those of --encoder=torch:NAME")
    if args.encoder == CHECKPOINT and args.config:
        raise ExtractError("--config names no weights: give --checkpoint, or --encoder=untrained:SEED or pixels")
    if overrides and not args.config:
        raise ExtractError(f"unknown arguments: {' '.join(overrides)}")
    encoder = load_encoder(
        command_line.read_config(args.config, overrides) if args.config else args.checkpoint,
        args.branch or "video_teacher",
        readout="cls" if args.encoder == PIXELS else args.readout,
        clips=args.clips,
        fit=args.fit or "letterbox",
        trained_fps=args.trained_fps,
        dtype=args.dtype,
        batch_size=args.batch_size,
        untrained=untrained,
    )
    return PixelEncoder(encoder, args.readout or PixelEncoder.DEFAULT) if args.encoder == PIXELS else encoder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m discovr_jax.extract",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", help="workdir, converted checkpoint, checkpoints/step_N, .pth, .safetensors")
    kinds = f"{CHECKPOINT}, untrained:SEED, {PIXELS} or {TORCH}:NAME, of {', '.join(KNOWN)} (default: %(default)s)"
    add("--encoder", default=CHECKPOINT, help=kinds)
    add("--loader", help="of torch:NAME: a Python file with load(weights) -> torch.nn.Module, which is run")
    add("--weights", help="of torch:NAME: the file or folder that its loader reads")
    add("--config", help="instead of --checkpoint, for untrained weights and pixels: a config by path or name")
    add("--input", required=True, help="folder, CSV with a column path (and fps), or one file")
    add("--output", required=True, help="the .parquet file")
    add("--branch", help="encoder of the checkpoint (default: video_teacher)")
    add(
        "--readout",
        help="the pooling, or several with commas, which stand side by side in the table: "
        f"{', '.join(readouts.KNOWN)}; or best, best:EVALUATOR (default: best, else cls); of pixels: "
        f"{', '.join((*pixels.NAMES, *pixels.PARTS))} (default: {PixelEncoder.DEFAULT})",
    )
    add("--clips", type=int, help="evenly spaced clips that are averaged (default: as evaluated, else 3)")
    add("--fit", choices=("letterbox", "squeeze"), help="how frames are made square (default: letterbox)")
    add("--trained_fps", type=float, help="frame rate of the training clips, where the checkpoint does not say")
    add("--dtype", choices=("float32", "bfloat16"), help="of activations (default: as evaluated, else float32)")
    add("--batch_size", type=int, default=8, help="clips per batch (default: %(default)s)")
    add("--shard", metavar="I/N", help="this is the I-th of N processes, from 1, that share --output")
    add_file_flags(parser)
    return parser


def add_file_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of how files are read and named."""
    add = parser.add_argument
    add("--csv", help="table of the files of a folder, as for prepare: columns path, and fps or study_id")
    add("--ignore_fps", action="store_true", help="take frames at the trained stride whatever their rate")
    add("--whole_frame", action="store_true", help="embed all that is on the screen, not the sector alone")
    add("--workers", type=int, default=4, help="files decoded at once (default: %(default)s)")
    add("--private_dir", help="keep the salt of the ids and id_map.csv here, apart from the output")
    names = parser.add_mutually_exclusive_group()
    names.add_argument("--show_paths", action="store_true", help="name DICOM files by their path")
    names.add_argument("--hide_paths", action="store_true", help="name no file by its path")


if __name__ == "__main__":
    sys.exit(main())
