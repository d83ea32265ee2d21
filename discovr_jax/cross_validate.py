"""Scores features of any encoder on a small archive with any label, by repeated grouped k-fold cross-validation.

python -m discovr_jax.cross_validate --features=discovr=a.parquet --features=pixels=b.parquet --labels=labels.csv
    --label=diagnosis --group=patient_id --output=DIR [--where="site=A"] [--folds=5] [--repeats=20]
python -m discovr_jax.cross_validate ... --target=ef           (a measurement instead of classes)

--features, once per encoder, the one under study first: NAME=FILE, what `discovr_jax.extract` writes or any Parquet
file with columns id (or path) and features. FILE:READOUT takes one of several readouts that a file holds; without it
the inner folds choose. NAME=A+B+C are seeds of one encoder, whose metrics are averaged.
Ids that do not match, duplicates, NaN and files of other videos are errors. Videos of one group are always tested
together, by heads that saw none of them. Written: DIR/results.json, predictions.csv and tables.md.
"""

import argparse
import pathlib
import sys

from discovr_jax import storage
from discovr_jax.errors import ConfigError
from discovr_jax.evaluation import results_io
from discovr_jax.evaluation.cross_validation import archive as archive_lib
from discovr_jax.evaluation.cross_validation import run, summary
from discovr_jax.evaluation.features import feature_files
from discovr_jax.evaluation.report import cross_validation as tables
from discovr_jax.progress import Progress, doing


@doing("cross-validation")
def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 if results were written, 1 with the reason on stderr if not."""
    arguments = storage.expand_home(argv)
    args = _parser().parse_args(arguments)
    try:
        if min(args.folds, args.inner_folds) < 2 or min(args.repeats, args.resamples) < 1 or args.seed < 0:
            raise ConfigError("--folds and --inner_folds are at least 2, --repeats and --resamples 1, --seed 0")
        archive = archive_lib.read_archive(
            feature_files.parse_features(args.features),
            args.labels,
            label=args.label,
            target=args.target,
            group=args.group,
            where=args.where,
        )
        options = run.FoldOptions(args.folds, args.repeats, args.inner_folds, args.seed, args.resamples)
        found, cuts = run.predict_all(archive, options, Progress("repeats", args.repeats))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    about = {"commit": results_io.commit_id(), "arguments": arguments, "label": args.label or args.target}
    results = results_io.plain(summary.summarise(archive, options, found, about))
    directory = pathlib.Path(args.output)
    results_io.write_text(directory / "predictions.csv", summary.predictions_csv(archive, found, cuts))
    results_io.write_text(directory / "tables.md", tables.tables(results) + "\n")
    results_io.write_json(directory / "results.json", results)
    print(tables.tables(results))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m discovr_jax.cross_validate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--features", action="append", required=True, metavar="NAME=FILE", help="one encoder's features; repeat it")
    add("--labels", required=True, help="CSV with a column id or path, the label and the group")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--label", default="", help="column of the classes, two or more")
    what.add_argument("--target", default="", help="column of a measurement")
    add("--group", required=True, help="column of what may not straddle folds: the patient")
    add("--where", action="append", default=[], help="COLUMN=VALUE or COLUMN!=VALUE: score these rows only; repeat it")
    add("--output", required=True, help="folder of the results")
    add("--folds", type=int, default=5, help="(default: %(default)s)")
    add("--inner_folds", type=int, default=3, help="of a training part, to choose settings on (default: %(default)s)")
    add("--repeats", type=int, default=20, help="times that other folds are drawn (default: %(default)s)")
    add("--seed", type=int, default=0, help="of all folds and resamples (default: %(default)s)")
    add("--resamples", type=int, default=1000, help="of the bootstrap over groups (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
