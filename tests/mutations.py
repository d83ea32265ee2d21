"""Damaged and hostile variants of small valid files, and a watch over what reading them does."""

import collections
import contextlib
import linecache
import os
import pathlib
import resource
import signal
import sys

from hypothesis import strategies as st

ROOT = pathlib.Path(__file__).resolve().parent.parent
OURS = ("discovr_jax", "tfds_builders")
# One input may take so long and so much memory beyond what the process had before.
SECONDS, MEMORY = 60, 2**30
EXTREMES = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 10**9, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1)
TOKENS = (
    b"", b"\0", b"\n", b"-1", b"0", b"1e999", b"nan", b"999999999999999999999", b"\xff\xfe", b'"', b",", b"=1+1",
    b"None", b"../../../../tmp/", b"[" * 2000, b"{}", b"[]", b"null", b"\xd9\xa3", b"\xc2\xb2", b"9" * 5000,
    b"A" * 200_000, b"=cmd|' /C calc'!A0", b"https://localhost:9/x", b"%s%n", b"__import__('os').system('true')",
)  # fmt: skip
KINDS = ("bit", "bytes", "extreme", "number", "token", "cut", "remove", "repeat", "splice")


@st.composite
def damaged(draw, files: dict[str, bytes]):
    """(name, content): one of the files after one to four of: bits flipped, bytes, numbers or words replaced, cut off,
    a part removed, repeated, or taken from another file.
    """
    name = draw(st.sampled_from(sorted(files)))
    data = bytearray(files[name])
    for _ in range(draw(st.integers(1, 4))):
        # Headers and directories, which lie at the ends, decide more than what is between them.
        end = len(data)
        start = draw(st.one_of(st.integers(0, min(end, 600)), st.integers(max(0, end - 600), end), st.integers(0, end)))
        kind = draw(st.sampled_from(KINDS))
        length = draw(st.integers(1, 64))
        if kind == "bit" and start < end:
            data[start] ^= 1 << draw(st.integers(0, 7))
        elif kind == "bytes":
            data[start : start + length] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "extreme":
            value, size = draw(st.sampled_from(EXTREMES)), draw(st.sampled_from((1, 2, 4, 8)))
            order = draw(st.sampled_from(("little", "big")))
            data[start : start + size] = (value % 256**size).to_bytes(size, order)
        elif kind in ("number", "token"):
            first = start
            if kind == "number":  # the next one that is written in digits
                first = next((i for i in range(start, min(end, start + 2000)) if 48 <= data[i] < 58), start)
                length = next((i for i in range(1, 20) if not data[first + i : first + i + 1].isdigit()), 1)
            data[first : first + length] = draw(st.sampled_from(TOKENS))
        elif kind == "cut":
            del data[start:]
        elif kind == "remove":
            del data[start : start + length]
        elif kind == "repeat":
            data[start:start] = data[start : start + length] * draw(st.sampled_from((1, 2, 1000)))
        elif kind == "splice":
            other = files[draw(st.sampled_from(sorted(files)))]
            place = draw(st.integers(0, max(0, len(other) - 1)))
            data[start : start + length] = other[place : place + length]
    return name, bytes(data)


class Hang(BaseException):
    """An input took longer than `SECONDS`. No `Exception`, so that nothing takes it for a damaged file."""


@contextlib.contextmanager
def limited(seconds: int = SECONDS, memory: int = MEMORY):
    """Raises Hang after so many seconds, MemoryError for more than so many bytes beyond those in use."""

    def stop(*_):
        raise Hang(f"took longer than {seconds} s")

    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


_RUNS = (
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pickle.find_class", "webbrowser.", "socket.connect",
    "socket.bind", "socket.getaddrinfo", "socket.gethostby", "socket.send",
)  # fmt: skip
_CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "shutil.")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_watched: list[tuple[pathlib.Path, list[str]]] = []


def _audit(event: str, arguments: tuple) -> None:
    if not _watched:
        return
    folder, seen = _watched[-1]
    if event.startswith(_RUNS):
        seen.append(f"{event}{arguments!r:.200}")
    elif event.startswith(_CHANGES) or (event == "open" and (arguments[2] or 0) & _WRITING):
        place = arguments[0]
        if isinstance(place, (str, bytes)) and not pathlib.Path(os.fsdecode(place)).absolute().is_relative_to(folder):
            if os.fsdecode(place) != os.devnull:
                seen.append(f"{event}{arguments!r:.200}")


sys.addaudithook(_audit)  # it cannot be removed; without a watch it does nothing


@contextlib.contextmanager
def watched(folder: pathlib.Path):
    """A list that fills with whatever runs code, opens connections or writes outside `folder`."""
    seen: list[str] = []
    _watched.append((folder.absolute(), seen))
    try:
        yield seen
    finally:
        _watched.pop()


def is_ours(error: BaseException) -> bool:
    """Whether an error is of a type of the project, a ValueError that a `raise` of its code made, or a command's end
    with one line.
    """
    if type(error).__module__.startswith(OURS):
        return True
    if isinstance(error, SystemExit):
        return str(error).startswith("error: ") and "Traceback" not in str(error)
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    file = trace.tb_frame.f_code.co_filename
    ours = any(pathlib.Path(file).is_relative_to(ROOT / name) for name in OURS)
    return type(error) is ValueError and ours and linecache.getline(file, trace.tb_lineno).strip().startswith("raise")


def signature(error: BaseException) -> str:
    """Kind and place of an error: equal for the same defect found again."""
    frames = []
    trace = error.__traceback__
    while trace:
        code = trace.tb_frame.f_code
        frames.append(f"{pathlib.Path(code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(error).__name__} at {' < '.join(reversed(frames[-3:]))}"


class Tally:
    """Counts what became of inputs, and keeps the smallest input of every kind of defect."""

    def __init__(self):
        self.counts: collections.Counter[str] = collections.Counter()
        self.defects: dict[str, tuple[str, str, bytes]] = {}

    def defect(self, kind: str, words: str, name: str, data: bytes) -> None:
        self.counts["defect"] += 1
        if kind not in self.defects or len(data) < len(self.defects[kind][2]):
            self.defects[kind] = words, name, data

    def try_one(self, read, name: str, data: bytes, folder: pathlib.Path, named: bool) -> None:
        """Calls `read()`, which reads `data`, a file `name`; all that it may write must lie in `folder`.

        Args:
          named: whether a refusal must name the file, or the folder.
        """
        with watched(folder) as seen:
            try:
                with limited():
                    read()
                self.counts["valid"] += 1
            except (Exception, SystemExit, Hang) as error:
                words = str(error)
                if not is_ours(error):
                    self.defect(signature(error), words, name, data)
                elif named and pathlib.Path(name).name not in words and str(folder) not in words:
                    self.defect(f"unnamed: {signature(error)}", words, name, data)
                elif len(words) > 20_000:
                    self.defect(f"long: {signature(error)}", words[:200], name, data)
                else:
                    self.counts["refused"] += 1
        for event in seen:
            self.defect(f"forbidden: {event:.60}", event, name, data)
