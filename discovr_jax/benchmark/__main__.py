"""Measures speeds and sizes on this machine; each command prints a table in Markdown.

python -m discovr_jax.benchmark step|ablations|loader|sinkhorn|eval --config=configs/adult.py [--config.KEY=VALUE ...]
python -m discovr_jax.benchmark compression VIDEOS
python -m discovr_jax.benchmark start --records=1000000
"""

import argparse
import importlib
import sys

from discovr_jax import command_line, storage

COMMANDS = {
    "step": "step",
    "ablations": "ablations",
    "loader": "loader",
    "start": "start",
    "sinkhorn": "sinkhorn",
    "eval": "evaluation",
    "compression": "compression",
}


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m discovr_jax.benchmark", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, file in COMMANDS.items():
        module = importlib.import_module(f"discovr_jax.benchmark.{file}")
        command = commands.add_parser(name, help=module.HELP, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    given, overrides = parser.parse_known_args(storage.expand_home(arguments))
    try:
        if hasattr(given, "config"):
            given.config = command_line.read_config(given.config, overrides)
        elif overrides:
            parser.error(f"unrecognized arguments: {' '.join(overrides)}")
        given.run(given)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
