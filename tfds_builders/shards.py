"""Writes the shards of records, and what TFDS shuffles before that."""

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator

from array_record.python import array_record_module
from tensorflow_datasets.core import hashing, shuffle, writer

from discovr_jax.progress import Progress


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


class Shuffler:
    """Puts serialized examples in the order of their keys' hashes, as `tensorflow_datasets.core.shuffle.Shuffler` does.

    That one asks TensorFlow for files once a split outgrows its memory (`shuffle.MAX_MEM_BUFFER_SIZE`, 1 GB). Here the
    examples then go to one plain file, and only their hashes and places stay in memory.
    """

    def __init__(
        self,
        dirpath: os.PathLike,
        hash_salt: str,
        disable_shuffling: bool,
        ignore_duplicates: bool,
        closing: contextlib.ExitStack,
    ):
        """
        Args:
          dirpath: folder of the file, which has no name there.
          closing: closes the file where it is not read to its end.
          hash_salt: name of the split.
          disable_shuffling, ignore_duplicates: False; no builder here asks for them.
        """
        assert not disable_shuffling and not ignore_duplicates
        self._hasher = hashing.Hasher(hash_salt)
        self._file = closing.enter_context(
            tempfile.SpooledTemporaryFile(max_size=shuffle.MAX_MEM_BUFFER_SIZE, dir=os.fspath(dirpath))
        )
        self._places: list[tuple[int, int, int]] = []  # hash, first byte, bytes
        self.size = 0  # bytes of all examples

    @property
    def num_examples(self) -> int:
        return len(self._places)

    @property
    def bucket_lengths(self) -> list[int]:
        return [len(self._places)]

    def add(self, key: str | bytes | int, data: bytes) -> None:
        """Appends an example; its key is hashed to 128 bits."""
        self._places.append((self._hasher.hash_key(key), self.size, len(data)))
        self._file.write(data)
        self.size += len(data)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Hashes and examples, once.

        Raises:
          shuffle.DuplicatedKeysError: two examples have the same key.
        """
        before, progress = None, Progress("records written", len(self._places), always=False)
        with self._file as file:
            for hashed, start, size in sorted(self._places):
                file.seek(start)
                data = file.read(size)
                if before and before[0] == hashed:
                    raise shuffle.DuplicatedKeysError(data, before[1])
                before = (hashed, data)
                yield before
                progress.add()


@contextlib.contextmanager
def shuffled_in_plain_files() -> Iterator[None]:
    """While this is open TFDS shuffles without TensorFlow, whatever the size of a split."""
    with contextlib.ExitStack() as restoring:
        restoring.callback(setattr, shuffle, "Shuffler", shuffle.Shuffler)
        shuffle.Shuffler = functools.partial(Shuffler, closing=restoring)
        yield
