"""array_record's own reader of one file."""

from collections.abc import Sequence
from typing import Protocol


class Reader(Protocol):
    """What is used of `array_record_module.ArrayRecordReader`; safe for threads."""

    def read(self, indices: Sequence[int]) -> Sequence[bytes]: ...

    def num_records(self) -> int: ...

    def close(self) -> None: ...


def open_file(path: str) -> Reader:
    """A reader, of a file here or at gs://, that asks the storage for what it needs and no more."""
    from array_record.python import array_record_module

    return array_record_module.ArrayRecordReader(
        path, options="readahead_buffer_size:0", file_reader_buffer_size=32768
    )
