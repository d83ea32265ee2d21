"""An encoder and its heads as one file that needs neither this package nor its data: ONNX or StableHLO.

python -m discovr_jax.export --workdir=RUN --output=DIR [--format=onnx|stablehlo] [--check=FILE ...]

For research use only; not a medical device. Written are the program, card.json (inputs, outputs, how clips are made,
hash of the weights) and check.npz (a simulated video's clips, and what JAX makes of them). The file is loaded again and
compared with the encoder on simulated videos and on those of --check; if it differs by more than 1e-4, nothing stays.
"""

import argparse
import sys

from discovr_jax import storage
from discovr_jax.evaluation.fitted_heads import RESEARCH_USE
from discovr_jax.export import formats, write
from discovr_jax.progress import doing
from discovr_jax.runs.checkpoint import CheckpointError


@doing("exporting")
def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 if the program was written and is right, 1 with the reason on stderr if not."""
    args = _parser().parse_args(storage.expand_home(argv))
    print(RESEARCH_USE)
    try:
        card = write.export(
            args.workdir, args.output, args.format,
            check=args.check, show_out_of_distribution=args.show_out_of_distribution,
        )  # fmt: skip
    except (ValueError, CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if isinstance(card["heads"], str):
        print(f"heads: {card['heads']}")
    for name, one in card["outputs"].items():
        apart = card["checked"]["largest_difference"][name]["absolute"]
        print(f"{name:24} {one['dtype']:8} {str(list(one['shape'])):8} off by {apart:.1e}  {one['meaning']}")
    checked = card["checked"]
    count = checked["simulated_videos"] + checked["videos_of_yours"]
    print(
        f"largest difference from JAX: {max(each['absolute'] for each in checked['largest_difference'].values()):.1e} "
        f"on {count} videos (at most {checked['at_most']:g}, of values above 1 in relation to them)"
    )
    if not checked["in_distribution"] and not args.show_out_of_distribution:
        print(
            "all of them are out of distribution, so that measurements were compared as NaN alone: give --check=FILE "
            "of the kind that the encoder was trained on"
        )
    print(f"written: {args.output} ({', '.join(card['files'])}, {write.CARD}); {card['format']}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m discovr_jax.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--workdir", required=True, help="a run: its newest checkpoint, with the heads of its evaluation; or phantom")
    add("--output", required=True, metavar="DIR", help="folder to write; must not exist")
    add("--format", default="onnx", help=f"{' or '.join(formats.FORMATS)} (default onnx, which needs the extra export)")
    add("--check", action="append", default=[], metavar="FILE", help="a video to compare on too; may be repeated")
    add("--show_out_of_distribution", action="store_true", help="numbers of videos unlike those of training too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
