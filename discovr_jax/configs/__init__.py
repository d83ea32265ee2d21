"""The folder `configs` at the top of a checkout, as a package; a wheel holds its files in the place of this one."""

import pathlib

__path__ = [str(pathlib.Path(__file__).resolve().parents[2] / "configs")]
