"""Serialised records of several array_record files, read by index; many threads may read at once.

One read of a record is one request to the storage: array_record keeps where each record lies, and its files are written
with one record per chunk (tfds_builders/shards.py).
"""

import bisect
import itertools
import os
import threading
from collections.abc import Iterable
from concurrent import futures

from discovr_jax.data.array_files import Reader, open_file
from discovr_jax.data.range_reader import RangeReader
from discovr_jax.errors import RecordsError

# Files opened at the same time before training; opening one takes a handful of reads, one after the other.
_OPENED_AT_ONCE = 32


class Shards:
    """Random access to the records of files; picklable, each file is opened in the process that first reads of it.

    Args:
      files: (path, number of records) of each, in order.
    """

    def __init__(self, files: Iterable[tuple[str, int]]):
        self.files = tuple(files)
        self._ends = list(itertools.accumulate(count for _, count in self.files))
        self._forget()

    def _forget(self) -> None:
        self._readers: list[Reader | None] = [None] * len(self.files)
        # One per file: array_record's own data source opens all files under one lock, one after the other.
        self._opening = [threading.Lock() for _ in self.files]

    def __getstate__(self) -> dict:
        return {"files": self.files, "_ends": self._ends}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._forget()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> bytes:
        """A record's bytes. Raises what the reader raises, and opens the file anew at the next read."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        number = bisect.bisect_right(self._ends, index)
        path, count = self.files[number]
        with self._opening[number]:
            reader = self._readers[number] = self._readers[number] or open_reader(path)
        try:
            return reader.read([index - self._ends[number] + count])[0]
        except Exception:
            self._readers[number] = None
            raise

    def check(self) -> None:
        """Raises RecordsError unless every file exists and holds as many records as it should."""
        with futures.ThreadPoolExecutor(max(1, min(_OPENED_AT_ONCE, len(self.files)))) as pool:
            for problem in pool.map(_problem, self.files):
                if problem:
                    raise RecordsError(problem)


def open_reader(path: str) -> Reader:
    """A reader of one file, here or at an address."""
    return RangeReader(path) if _is_in_ranges(path) else open_file(path)


def _is_in_ranges(path: str) -> bool:
    # array_record has a client of Google's storage, which takes half of the processor time.
    return "://" in path and not path.startswith("gs://")


def _problem(file: tuple[str, int]) -> str:
    path, expected = file
    distant = "://" in path
    if not distant and not os.path.isfile(path):
        return f"Records are incomplete: {path} is missing."
    # The C++ reader raises several kinds, by the damage; ours this one, and another is an error of ours.
    damage = RecordsError if _is_in_ranges(path) else Exception
    try:
        reader = open_reader(path)
        count = reader.num_records()
        reader.close()
    except (ImportError, TypeError, AttributeError):
        raise  # no damage, but an error of ours or of what is installed
    except damage as error:
        if distant:
            return f"{path} cannot be opened ({error}). It takes this machine's credentials; gs:// array-record 0.8.6."
        return f"Records are damaged: {path} cannot be opened ({error})."
    return "" if count == expected else f"Records are damaged: {path} holds {count} records, not {expected}."
