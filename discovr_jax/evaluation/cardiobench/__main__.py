"""Prediction files of CardioBench (arXiv 2510.00520) from the latest evaluation of a run.

python -m discovr_jax.evaluation.cardiobench write --workdir=RUN[:ENCODER] --output=DIR [--cardiobench=CLONE]
python -m discovr_jax.evaluation.cardiobench write --predictions=FILE.parquet --task=CAMUS/EF --output=DIR
    --cardiobench=CLONE
python -m discovr_jax.evaluation.cardiobench listing HMCQU/stemi --cardiobench=CLONE --output=LIST.csv
python -m discovr_jax.evaluation.cardiobench tasks

`write` makes DIR/SET/TASK/NAME.csv of every task that the scored dataset serves. With a clone of CardioBench it checks
that all are rows of its test split, and counts those without a prediction, which its scripts leave out in silence.
`listing` writes the CSV with which `prepare echo_folder` reads a set that has no builder of its own.
"""

import argparse
import csv
import io
import pathlib
import sys

from discovr_jax import storage
from discovr_jax.evaluation import results_io
from discovr_jax.evaluation.cardiobench import files, names, tasks
from discovr_jax.evaluation.report import table
from discovr_jax.runs.workdir import WorkdirError


def main(argv: list[str] | None = None) -> int:
    """Run a command; 0 if it did what was asked, 1 with the reason on stderr if not."""
    args = _parser().parse_args(storage.expand_home(argv))
    try:
        args.run(args)
    except (ValueError, WorkdirError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _tasks(args: argparse.Namespace) -> None:
    del args
    print(table.markdown(tasks.table()))


def _listing(args: argparse.Namespace) -> None:
    task = tasks.named(args.task)
    root, rows = names.listing(task, files.truth_table(task, args.cardiobench))
    text = io.StringIO()
    writer = csv.DictWriter(text, ("Path", "class", "patient_id", "split", "view"), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    results_io.write_text(pathlib.Path(args.output), text.getvalue())
    print(f"{len(rows)} files in {args.output}, below the folder that CardioBench calls {root}. Next:")
    print(f"python -m discovr_jax.prepare echo_folder --manual_dir=THAT_FOLDER --csv={args.output} --show_paths")


def _write(args: argparse.Namespace) -> None:
    if args.predictions:
        if not (args.task and args.cardiobench):
            raise tasks.CardioBenchError("--predictions needs --task and --cardiobench, which name the test videos")
        written = files.write_table(args.predictions, args.output, args.task, args.cardiobench, args.name or "discovr")
    else:
        written = files.write(
            args.workdir,
            args.output,
            name=args.name,
            task=args.task,
            cardiobench=args.cardiobench,
            private_dir=args.private_dir,
        )
    for file in written:
        metrics = ", ".join(f"{name} {value:.2f}" for name, value in file.expected.items())
        print(f"{file.path}: {file.rows} rows. Its script should say {metrics}")
        if file.absent is None:
            print("  not checked against its test split; --cardiobench=CLONE does")
        elif file.absent:
            print(f"  {file.absent} of its {file.absent + file.rows} test rows have no prediction, and do not count")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m discovr_jax.evaluation.cardiobench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    write = commands.add_parser("write", help="prediction files of a run")
    source = write.add_mutually_exclusive_group(required=True)
    source.add_argument("--workdir", help="of a run that was evaluated, or WORKDIR:ENCODER")
    source.add_argument("--predictions", metavar="FILE.parquet", help="what `predict` wrote for the set's files")
    write.add_argument("--output", required=True, help="folder; CLONE/evaluation/example_predictions is the usual one")
    write.add_argument("--name", default="", help="of the model (default: the encoder's)")
    write.add_argument("--task", default="", help="SET/TASK; for --predictions, and videos that echo_folder read")
    write.add_argument("--cardiobench", metavar="CLONE", help="clone of CardioBench, with its data/splits")
    write.add_argument("--private_dir", help="of `prepare echo_folder`, where ids are keyed hashes")
    write.set_defaults(run=_write)
    listed = commands.add_parser("listing", help="CSV of a set's files for `prepare echo_folder`")
    listed.add_argument("task", metavar="SET/TASK")
    listed.add_argument("--cardiobench", required=True, metavar="CLONE", help="clone of CardioBench")
    listed.add_argument("--output", required=True, help="the CSV")
    listed.set_defaults(run=_listing)
    commands.add_parser("tasks", help="all sets and tasks, and which are served").set_defaults(run=_tasks)
    return parser


if __name__ == "__main__":
    sys.exit(main())
