"""Records of an array_record file in any store that fsspec knows, each by one request of a byte range.

array_record reads files. So the bytes of a record, and the index at the end of its file, are put where they belong in
a temporary file that is a hole otherwise, and array_record reads that: its own code compares checksums and unpacks, and
damaged bytes are found as on a disk.

Source of the format: array_record's cpp/layout.proto, and Riegeli's records
(https://github.com/google/riegeli/blob/master/doc/riegeli_records_file_format.md).
"""

import array
import logging
import struct
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from discovr_jax.data import array_files
from discovr_jax.errors import RecordsError

logger = logging.getLogger(__name__)

# Pauses before a request that failed is sent again. Stores refuse requests now and then, and say so with 503.
_PAUSES = (0.2, 1.0, 5.0)
_BLOCK = 2**16  # of the format; every one begins with a header
_BLOCK_HEADER = 24
_CHUNK_HEADER = struct.Struct("<5Q")  # hash, bytes, hash of these, kind and number of records, bytes when unpacked

_T = TypeVar("_T")


class RangeReader:
    """Reads what `array_record_module.ArrayRecordReader` reads, at an address; safe for threads.

    Args:
      url: "s3://BUCKET/FOLDER/FILE", "https://...".

    Raises:
      RecordsError: the store does not give the file, or it is no such file; names the address.
    """

    def __init__(self, url: str):
        import fsspec

        self._url = url
        self._store, self._path = fsspec.core.url_to_fs(url)
        size = asked_again(url, lambda: self._store.info(self._path)["size"])
        if not size or size % _BLOCK:
            raise RecordsError(f"{url} is no whole array_record file ({size} bytes)")
        # The last block says where the index begins, which is mostly in the one before.
        start = max(0, size - 2 * _BLOCK)
        end = self._fetch(start, size)
        try:
            footer = _numbers(_records(end[-_BLOCK:], size - _BLOCK)[0])[1]
            if footer < start:
                end = self._fetch(footer, start) + end
            else:
                end = end[footer - start :]
            index = end[:-_BLOCK]
            self._size, self._end = size, {footer: index.rstrip(b"\0"), size - _BLOCK: end[-_BLOCK:].rstrip(b"\0")}
            self._count = self._through({}, lambda reader: reader.num_records())
            chunks = [_numbers(message) for message in _records(index, footer)[1:]]
            self._starts = array.array("Q", [*(chunk[1] for chunk in chunks), footer])
            self._records_per_chunk = chunks[0][3] if chunks else 1
        except RecordsError:
            raise
        except (struct.error, LookupError, ValueError, RuntimeError) as error:
            raise RecordsError(f"{url} has a damaged index ({error})") from error

    def num_records(self) -> int:
        return self._count

    def read(self, indices: Sequence[int]) -> Sequence[bytes]:
        """Records by index. Raises RecordsError, naming the address: they do not come, or come damaged."""
        fetched = {}
        for number in {index // self._records_per_chunk for index in indices}:
            start, end = self._starts[number : number + 2]
            fetched[start] = self._fetch(start, end)
        try:
            return self._through(fetched, lambda reader: reader.read(indices))
        except RuntimeError as error:
            raise RecordsError(f"{self._url}: {error}") from error

    def close(self) -> None:
        """Nothing is open."""

    def _through(self, fetched: dict[int, bytes], action: Callable[[array_files.Reader], _T]) -> _T:
        """`action` of array_record's reader on a file that holds these bytes, by their place, and the index."""
        with tempfile.TemporaryFile() as file:
            file.truncate(self._size)
            for place, content in (self._end | fetched).items():
                file.seek(place)
                file.write(content)
            file.flush()
            reader = array_files.open_file(f"/dev/fd/{file.fileno()}")
            try:
                return action(reader)
            finally:
                reader.close()

    def _fetch(self, start: int, end: int) -> bytes:
        def fetch() -> bytes:
            content = self._store.cat_file(self._path, start=start, end=end)
            if len(content) != end - start:
                raise OSError(f"{len(content)} bytes came")
            return content

        return asked_again(f"{self._url}, bytes {start} to {end},", fetch)


def asked_again(what: str, request: Callable[[], _T]) -> _T:
    """What `request()` to a store returns. RecordsError, naming `what`, if it fails each time."""
    for pause in _PAUSES:
        try:
            return request()
        except (FileNotFoundError, PermissionError, ImportError, ValueError):
            break  # waiting changes nothing
        except Exception as error:  # Each store has its own kinds.
            logger.warning("%s cannot be read, and is asked for again in %g s: %s", what, pause, _told(error))
            time.sleep(pause)
    try:
        return request()
    except Exception as error:
        raise RecordsError(f"{what} cannot be read ({_told(error)})") from error


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error!s:.200}"


def _records(blocks: bytes, position: int) -> list[bytes]:
    """Records of the chunk that begins at a position of the file.

    Raises:
      ValueError: it is compressed, or no such chunk; IndexError and struct.error: it is cut.
    """
    content = bytearray()
    while blocks:
        room = _BLOCK - position % _BLOCK
        content += blocks[0 if position % _BLOCK else _BLOCK_HEADER : room]
        blocks, position = blocks[room:], position + room
    _, size, _, kind, _ = _CHUNK_HEADER.unpack_from(content)
    chunk = content[_CHUNK_HEADER.size :][:size]
    if kind & 0xFF != ord("r") or chunk[0]:
        raise ValueError("it is compressed: write the file with the option uncompressed, as prepare does")
    place = 1
    packed, place = _varint(chunk, place)
    sizes, last = [], place + packed
    while place < last:
        length, place = _varint(chunk, place)
        sizes.append(length)
    result = []
    for length in sizes:
        result.append(bytes(chunk[place : place + length]))
        place += length
    return result


def _numbers(message: bytes) -> dict[int, int]:
    """The fields of a protocol buffer that has nothing but whole numbers."""
    fields, place = {}, 0
    while place < len(message):
        tag, place = _varint(message, place)
        fields[tag >> 3], place = _varint(message, place)
    return fields


def _varint(content: bytes | bytearray, place: int) -> tuple[int, int]:
    """A number and the place after it."""
    value = shift = 0
    while True:
        byte = content[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
