"""Trained encoders that come with the package, by name: `discovr_jax.load_encoder("phantom")`.

phantom: of `configs/phantom.py:long`, trained on simulated hearts; made by `python -m discovr_jax.slim`. It is
there to try things out, and has never seen a real heart.
"""

import os
import pathlib

FOLDER = pathlib.Path(__file__).parent
NAMES = ("phantom",)


def path_of(path: str | os.PathLike) -> str | os.PathLike:
    """The folder of an encoder that comes with the package; any other path, and one that exists here, as it is.

    >>> path_of("runs/adult")
    'runs/adult'
    """
    if os.fspath(path) in NAMES and not os.path.exists(path):
        return FOLDER / os.fspath(path)
    return path
