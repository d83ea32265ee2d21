"""What pydicom and the decoders raise for pixels that cannot be decoded, as one error: ours are of other kinds."""

import contextlib
import struct
from collections.abc import Iterator

from pydicom.errors import BytesLengthException

# A TypeError: of a value of another kind than its tag demands, as a table of 12 bits per entry.
_BAD_PIXELS = (ValueError, TypeError, RuntimeError, NotImplementedError, OSError, BytesLengthException, struct.error)
_WORDS = 400  # characters of a library's message that are passed on


class Undecodable(Exception):
    """Pixels, or look-ups for them, that a library refuses: its words."""


@contextlib.contextmanager
def library() -> Iterator[None]:
    """Raises Undecodable for what a library raises. No code of ours belongs inside: its errors are not the file's."""
    try:
        yield
    except _BAD_PIXELS as error:
        # Pydicom's messages hold numbers of the pixels' description, no other text of the header.
        raise Undecodable(" ".join(str(error).split())[:_WORDS]) from None
