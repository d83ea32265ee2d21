"""Weights between PyTorch and here, and the check against the public code's numbers.

python -m discovr_jax.convert from-torch CHECKPOINT.pth --output=DIR [--allow=PATTERN ...]
python -m discovr_jax.convert to-torch DIR --output=FILE.pth
python -m discovr_jax.convert check --golden=FILE.npz [--json=FILE]
"""

import argparse
import hashlib
import json
import pathlib
import sys

from discovr_jax import storage
from discovr_jax.progress import doing
from discovr_jax.runs.checkpoint import CheckpointError


@doing("converting")
def main(argv: list[str] | None = None) -> int:
    """Run a command; 0 if it did what was asked, 1 with the reason on stderr if not."""
    args = _parser().parse_args(storage.expand_home(argv))
    try:
        return args.run(args)
    except (ValueError, CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def from_torch(args: argparse.Namespace) -> int:
    """A PyTorch or safetensors file to a checkpoint of ours."""
    from discovr_jax.convert import folder, state, torch_files
    from discovr_jax.convert.sizes import Hints

    folder.check_free(args.output)
    source = torch_files.read_torch_file(args.checkpoint)
    flags = Hints(args.heads, args.decoder_heads, args.num_frames, args.image_size)
    converted = state.from_torch(source.tensors, flags.over(Hints.from_args(source.args)), args.allow)
    with open(args.checkpoint, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    origin = {"source": pathlib.Path(args.checkpoint).name, "sha256": digest, "epoch": source.epoch}
    report = origin | folder.found(converted)
    folder.write(args.output, converted, report)
    for key, value in report.items():
        print(f"{key:15} {', '.join(value) if isinstance(value, list) else value}")
    print(f"written to {args.output}")
    return 0


def to_torch(args: argparse.Namespace) -> int:
    """A checkpoint of ours to a state dict that the public code loads."""
    from discovr_jax.convert import folder, state, torch_files
    from discovr_jax.convert import read as weights_lib

    parts = ("params/", "teacher/", "memory/")
    source = weights_lib.read_weights(args.checkpoint, lambda path: path.startswith(parts))
    report, computed = folder.read_report(args.checkpoint) or ({}, None)
    tensors = state.to_torch(source.arrays, source.config, computed, args.allow)
    torch_files.write(args.output, tensors, report.get("epoch"))
    print(f"{len(tensors)} tensors written to {args.output}")
    return 0


def check(args: argparse.Namespace) -> int:
    """Our numbers beside the public code's."""
    from discovr_jax.convert import check as check_lib

    rows = check_lib.run(args.golden)
    print(check_lib.table(rows))
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps([row.as_dict() for row in rows], indent=1) + "\n")
    return 0 if all(row.passed for row in rows) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m discovr_jax.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, run):
        sub = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        sub.set_defaults(run=run)
        return sub

    allow = "shell pattern of names that may be left out; may be repeated"
    sub = command("from-torch", from_torch)
    sub.add_argument("checkpoint", help=".pth or .safetensors file")
    sub.add_argument("--output", required=True, metavar="DIR", help="folder to write; must not exist")
    sub.add_argument("--allow", action="append", default=[], metavar="PATTERN", help=allow)
    for flag, what in (
        ("--heads", "attention heads of the encoders"),
        ("--decoder_heads", "attention heads of the decoder"),
        ("--num_frames", "frames of a clip"),
        ("--image_size", "pixels of a frame's side"),
    ):
        sub.add_argument(flag, type=int, help=f"{what}, where the file does not say")

    sub = command("to-torch", to_torch)
    sub.add_argument("checkpoint", help="workdir, converted checkpoint or checkpoints/step_N")
    sub.add_argument("--output", required=True, metavar="FILE", help=".pth or .safetensors")
    sub.add_argument("--allow", action="append", default=[], metavar="PATTERN", help=allow)

    sub = command("check", check)
    sub.add_argument("--golden", required=True, metavar="FILE", help=".npz of the public code's numbers")
    sub.add_argument("--json", metavar="FILE", help="also write the rows as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
