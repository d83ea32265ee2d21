"""What the command line of `main` needs besides its flags: reading them, with errors of one line, and the log."""

import difflib
import logging
import sys
import warnings

from absl import flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from discovr_jax import renamed_keys, storage
from discovr_jax.runs.workdir import flatten

_LONGEST = 4000  # characters of an error in an argument, which may quote it
_LONGEST_NAME = 1000  # characters of a flag: absl compares an unknown one with all others, in tables of their letters


def require_config() -> None:
    """Every mode needs a --config, but `compare`."""

    @flags.multi_flags_validator(("config", "mode"), "--config is missing: a config file or the name of a shipped one")
    def _(values) -> bool:
        return values["config"] is not None or values["mode"] == "compare"


def show_log() -> logging.Logger:
    """Our log on the terminal, with the time; returns it."""
    # Our lines only: Orbax, Grain and TFDS log theirs through absl, a page per checkpoint, and ten pages for an error
    # that they raise as well.
    absl_logging.set_verbosity(absl_logging.FATAL)
    logger = logging.getLogger("discovr_jax")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    return logger


def parse_flags(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """absl's parsing, with errors of one line; --config takes a path or the name of a shipped config."""
    from discovr_jax.method.experiment import config_path

    if "--config" in argv[:-1]:  # "--config NAME"
        at = argv.index("--config")
        argv = [*argv[:at], f"--config={argv[at + 1]}", *argv[at + 2 :]]
    if any(len(argument.partition("=")[0]) > _LONGEST_NAME for argument in argv[1:]):
        sys.exit(f"error: an argument begins with a name of more than {_LONGEST_NAME} characters")
    argv = [*argv[:1], *storage.expand_home(argv[1:])]
    try:
        argv = renamed_keys.flags([f"--config={config_path(a[9:])}" if a.startswith("--config=") else a for a in argv])
        sys.argv = argv  # where ml_collections looks for overrides
        left = values(argv)
        if values["config"].value is not None:  # a file that could not be loaded says so here
            renamed_keys.update(values["config"].value)
        return left
    except FileNotFoundError as error:
        words = str(error)
    except RecursionError:
        words = "an argument is too long, or nested too deeply"
    except flags.Error as error:
        # An error inside a config file comes with its traceback; if it is a check of ours, its last line says all.
        last = str(error).strip().splitlines()[-1]
        words = last.removeprefix("ValueError: ") if last.startswith("ValueError: ") else str(error)
    except (ArithmeticError, AttributeError, LookupError, OSError, SyntaxError, TypeError, ValueError) as error:
        # The library reads a key as Python would, and so fails in as many ways.
        last = (str(error).strip().splitlines() or [""])[-1]
        words = _unknown_keys(argv, values) or f"an argument cannot be read ({type(error).__name__}: {last})"
    sys.exit(f"error: {words[:_LONGEST]}")


def read_config(name: str, overrides: list[str]) -> ConfigDict:
    """A config by path or name, with `--config.KEY=VALUE` applied, for commands with argparse.

    Raises:
      ValueError: an argument that is none, or a key that the config has not got.
      FileNotFoundError: no such config.
    """
    from discovr_jax.method.experiment import config_path

    arguments = ["config", f"--config={config_path(name)}", *renamed_keys.flags(overrides)]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=arguments)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # ml_collections loads modules the old way
            rest = values(arguments)[1:]
    except (flags.Error, AttributeError, KeyError) as error:
        raise ValueError(str(error).strip().splitlines()[-1]) from None
    if rest:
        raise ValueError(f"unknown arguments: {' '.join(rest)}")
    renamed_keys.update(holder.value)
    return holder.value


def _unknown_keys(argv: list[str], values: flags.FlagValues) -> str:
    """Which keys of the arguments the config has not, and which were perhaps meant; empty if all are there."""
    path = next((a[9:] for a in argv if a.startswith("--config=")), None)
    given = [a.removeprefix("--config.").partition("=")[0] for a in argv if a.startswith("--config.")]
    if path is None or not given:
        return ""
    try:
        known = flatten(values["config"].parser.parse(path).to_dict())
    except OSError:  # the file could not be loaded
        return ""
    unknown = [key for key in given if key not in known]
    near = [match for key in unknown for match in difflib.get_close_matches(key, known, n=3)]
    hint = f"Did you mean {', '.join(near)}? " if near else ""
    return f"the config has no key {', '.join(unknown)}. {hint}Every key is in configs/base.py" if unknown else ""
