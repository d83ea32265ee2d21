"""Writes the shards of records, and what TFDS shuffles before that."""

import contextlib
import os
import pathlib
import struct
from collections.abc import Iterator

from array_record.python import array_record_module
from tensorflow_datasets.core import shuffle, writer

_WORD = 2**64 - 1
_HEADER = struct.Struct("<QQQ")  # high and low half of the key, bytes of the example


class ShardWriter(writer.ExampleWriter):
    """Writes array_record files that hold the records as they are.

    The frames are compressed already, each on its own. The compression that TFDS would put around whole records
    saves another sixth of the bytes and makes reading one take four times as long (docs/data.md).
    """

    def __init__(self):
        super().__init__("array_record")

    def write(self, path, examples) -> None:
        """Writes (key, serialized example) pairs to a new file."""
        shard = array_record_module.ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
        for _, example in examples:
            shard.write(example)
        shard.close()


class Bucket:
    """Keyed examples in a plain file: what TFDS' shuffler puts on disk once a split outgrows its memory (1 GB).

    Its own bucket asks TensorFlow for the file. Here the file is open only while an example is added, so a thousand
    buckets need no thousand open files.
    """

    def __init__(self, path: os.PathLike):
        self._path = pathlib.Path(path)
        self._length = 0
        self.size = 0

    def __len__(self) -> int:
        return self._length

    def add(self, key: int, data: bytes) -> None:
        """Appends an example under a key of 128 bits."""
        with self._path.open("ab") as file:
            file.write(_HEADER.pack(key >> 64, key & _WORD, len(data)))
            file.write(data)
        self._length += 1
        self.size += len(data)

    def read_values(self) -> Iterator[tuple[int, bytes]]:
        """Keys and examples in the order in which they were added."""
        if not self._length:
            return
        with self._path.open("rb") as file:
            while header := file.read(_HEADER.size):
                high, low, size = _HEADER.unpack(header)
                yield (high << 64) | low, file.read(size)

    def del_file(self) -> None:
        """Removes the file."""
        self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def shuffled_in_plain_files() -> Iterator[None]:
    """While this is open TFDS shuffles without TensorFlow, whatever the size of a split."""
    with contextlib.ExitStack() as restoring:
        restoring.callback(setattr, shuffle, "_Bucket", shuffle._Bucket)
        shuffle._Bucket = Bucket
        yield
