"""Prediction files of CardioBench (arXiv 2510.00520) from the latest evaluation of a run.

python -m discovr_jax.evaluation.cardiobench write --workdir=RUN[:ENCODER] --output=DIR [--cardiobench=CLONE]
python -m discovr_jax.evaluation.cardiobench write --predictions=FILE.parquet --task=CAMUS/EF --output=DIR
    --cardiobench=CLONE
python -m discovr_jax.evaluation.cardiobench tasks

`write` makes DIR/SET/TASK/NAME.csv of every task that the scored dataset serves. With a clone of CardioBench it checks
that all are rows of its test split, and counts those without a prediction, which its scripts leave out in silence.
"""

import argparse
import sys

from discovr_jax import storage
from discovr_jax.evaluation.cardiobench import files, tasks
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
    write.add_argument("--task", default="", help="SET/TASK, for --predictions; else all")
    write.add_argument("--cardiobench", metavar="CLONE", help="clone of CardioBench, with its data/splits")
    write.set_defaults(run=_write)
    commands.add_parser("tasks", help="all sets and tasks, and which are served").set_defaults(run=_tasks)
    return parser


if __name__ == "__main__":
    sys.exit(main())
