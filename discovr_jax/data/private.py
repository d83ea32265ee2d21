"""Names for files of a private archive: keyed hashes, and a table that only the archive's owner can read.

The salt and the tables of names lie in a folder of the owner's, apart from all that is made from the archive. The
same salt gives a file the same id everywhere.
"""

import csv
import hashlib
import hmac
import io
import os
import pathlib
import secrets
from collections.abc import Mapping

SALT, ID_MAP, PATIENT_MAP = "salt", "id_map.csv", "patient_map.csv"


def open_salt(home: str | os.PathLike) -> bytes:
    """The salt kept in the folder `home`; made, readable by the owner only, where there is none."""
    home = pathlib.Path(home)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = home / SALT
    if not path.exists():
        _write(path, secrets.token_hex(32))
    return bytes.fromhex(path.read_text())


def salted_id(salt: bytes, name: str) -> str:
    """Sixteen hexadecimal digits for a name, which nobody without the salt can make or check."""
    return hmac.new(salt, name.encode(), hashlib.sha256).hexdigest()[:16]


def write_map(home: str | os.PathLike, file: str, column: str, names: Mapping[str, str]) -> None:
    """Adds ids, and the names that they stand for, to a table (id, `column`) in `home`, mode 0600."""
    path = pathlib.Path(home) / file
    known = {}
    if path.exists():
        with open(path, newline="", encoding="utf-8") as lines:
            known = {row["id"]: row[column] for row in csv.DictReader(lines)}
    text = io.StringIO()
    csv.writer(text).writerows([("id", column), *(known | dict(names)).items()])
    _write(path, text.getvalue())


def _write(path: pathlib.Path, text: str) -> None:
    """Whole or not at all; a file that is there already keeps no wider rights than 0600."""
    temporary = path.with_name(f".{path.name}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
        file.write(text)
    os.replace(temporary, path)
