"""The folder that keeps what must not lie beside the records: the salt of ids, and the names behind them."""

import pathlib

from discovr_jax.data import private
from tfds_builders.tables import SourceError


def of_option(given: str | None) -> pathlib.Path | None:
    """The folder that the option `private_dir` names; None if it names none."""
    return None if given is None else pathlib.Path(given).expanduser().absolute()


def open_salt(home: pathlib.Path | None, data_dir, otherwise: str = "") -> bytes:
    """The salt kept there, made where there is none.

    Args:
      home: of `of_option`; data_dir: of the records; otherwise: what else can be done, the end of a message.

    Raises:
      SourceError: no folder is given, or one among the records.
    """
    if home is None:
        raise SourceError(
            "Give --private_dir=DIR, a folder of yours apart from the records, for the names behind the ids"
            f"{otherwise}."
        )
    if home.resolve().is_relative_to(pathlib.Path(data_dir).expanduser().resolve()):
        raise SourceError("--private_dir lies in --data_dir: names must be kept apart from the records.")
    return private.open_salt(home)
