"""A run's folder or a table, as the command line names it, to its videos."""

import pathlib
from typing import Any

from discovr_jax.explore import of_run, of_table
from discovr_jax.explore.videos import ExploreError, Videos


def open_videos(source: str, **options: Any) -> Videos:
    """The videos of a run's folder or of a .parquet file.

    Args:
      **options: readout and data_dir, of `of_run.read`; joined and files, of `of_table.read`. None or empty: not given.

    Raises:
      ExploreError: nothing to show, or an option of the other kind of source.
    """
    path = pathlib.Path(source)
    if not path.exists():
        raise ExploreError(f"{path}: no such run or table")
    read, mine = (of_run.read, ("readout", "data_dir")) if path.is_dir() else (of_table.read, ("joined", "files"))
    given = {name: value for name, value in options.items() if value}
    if foreign := sorted(set(given) - set(mine)):
        flags = {"readout": "--readout", "data_dir": "--data_dir", "joined": "--join", "files": "--input"}
        what = "a run" if path.is_dir() else "a table"
        raise ExploreError(f"{', '.join(flags[name] for name in foreign)}: not for {what}, which {path} is")
    return read(path, **given)
