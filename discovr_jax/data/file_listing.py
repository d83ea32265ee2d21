"""The video files below a folder: one rule for `prepare`, `extract` and every builder.

Names are paths below the folder with "/", in Unicode's composed form; bytes of a name that are no UTF-8 are written as
"%E9". A name with backslashes, of Windows or of an archive packed there, is the same name with "/".
"""

import collections
import dataclasses
import functools
import mimetypes
import os
import pathlib
import re
import unicodedata
from collections.abc import Sequence

from discovr_jax.data import read
from discovr_jax.progress import Progress

# Folders that operating systems, archives and network disks make, besides those that begin with a dot.
_NOT_THE_USERS = ("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found")
# Suffixes that may be told of a private archive, where "Doe.Jane" has a suffix too; besides those of `mimetypes`.
_KNOWN = (
    ".wmv .mkv .flv .vob .ts .m2ts .mts .3gp .ogv .asf .m4v .divx .vol .mha .mhd .nrrd .mat .hdf5 .raw .dat .xlsx .xls "
    ".docx .ini .log .md .db .dcm .jp2 .jxl .zst .7z .rar .parquet"
).split()
_BYTE = re.compile("[\udc80-\udcff]")
NO_SUFFIX, OTHER, LINKED, CLOSED = "without suffix", "of another suffix", "linked folders", "folders not opened"
SAME_NAME = "of a name that another file has"


@dataclasses.dataclass(frozen=True)
class Files:
    """What lies below a folder.

    Attributes:
      root: the folder.
      videos: {name: path} of every file that a reader takes, sorted by name.
      not_read: {name: suffix} of the others; hidden ones, CSV tables and DICOMDIR, the index of an archive, are in
        neither.
      passed_over: {LINKED or CLOSED: how many}, folders that were not looked into; {SAME_NAME: how many}, files whose
        names differ from another's only in what `plain` makes alike.
    """

    root: pathlib.Path
    videos: dict[str, pathlib.Path]
    not_read: dict[str, str]
    passed_over: dict[str, int]

    def find(self, listed: str) -> list[str]:
        """Names of the videos that a table can mean by `listed`: that one, or all that have it but for the suffix."""
        name = plain(listed)
        return [name] if name in self.videos else self._bare.get(name, [])

    def why_not(self, listed: str, private: bool) -> str:
        """Why `find` gives nothing for a name, for a message that names it."""
        name = plain(listed)
        if is_hidden(name):
            return "hidden files and folders are not read"
        fitting = [name] if name in self.not_read else self._bare_not_read.get(name, [])
        if fitting:
            suffix = told(self.not_read[fitting[0]], private)
            return f"the file is there, but files {suffix} are not read; read are {', '.join(suffixes())} and DICOM"
        return "no such file, with or without suffix"

    def counts(self, private: bool) -> dict[str, int]:
        """How many files are not read, by suffix, and folders not looked into; most first.

        Args:
          private: tell only suffixes that no name has.
        """
        result = collections.Counter(told(suffix, private) for suffix in self.not_read.values())
        return dict(sorted((result | collections.Counter(self.passed_over)).items(), key=lambda item: (-item[1], item)))

    def hint(self, missing: Sequence[str], private: bool) -> str:
        """What most of the listed names that `find` does not know seem to lack or to have too much.

        Args:
          missing: as they are listed.
          private: quote no part of a name.

        Returns:
          A sentence with a space in front; empty if no reason is seen.
        """
        names = [plain(listed) for listed in missing]
        reasons: list[tuple[int, str]] = []
        for levels in (1, 2, 3):
            shorter = [name.split("/", levels)[-1] for name in names if name.count("/") >= levels]
            heads = [name.rsplit("/", name.count("/") - levels + 1)[0] for name in names if name.count("/") >= levels]
            fits = [head for head, name in zip(heads, shorter, strict=True) if self.find(name)]
            if fits:
                quoted = f"their first {levels} folder(s)" if private else f"'{_commonest(fits)}/' in front"
                reasons.append((len(fits), f"would be found without {quoted}"))
        below = [self._by_end[name] for name in names if name in self._by_end]
        if below:
            quoted = "a folder further down" if private else f"the folder '{_commonest(below)}'"
            reasons.append((len(below), f"lie in {quoted}: put it in front of the names, or point at it"))
        cases = sum(name.casefold() in self._by_case for name in names)
        if cases:
            reasons.append((cases, "differ from a file's name in upper and lower case only"))
        if not reasons:
            return ""
        count, reason = max(reasons, key=lambda each: each[0])
        return f" {count} of these {len(names)} {reason}."

    @functools.cached_property
    def _bare(self) -> dict[str, list[str]]:
        return _by_bare(self.videos)

    @functools.cached_property
    def _bare_not_read(self) -> dict[str, list[str]]:
        result: dict[str, list[str]] = {}
        for name, suffix in self.not_read.items():
            if suffix:
                result.setdefault(name[: -len(suffix)], []).append(name)
        return result

    @functools.cached_property
    def _by_end(self) -> dict[str, str]:
        """{end of a name, with or without suffix: the folders before it}."""
        ends = {}
        for name in self.videos:
            parts = name.split("/")
            for cut in range(1, len(parts)):
                end = "/".join(parts[cut:])
                for key in (end, bare(end)):
                    ends.setdefault(key, "/".join(parts[:cut]))
        return ends

    @functools.cached_property
    def _by_case(self) -> set[str]:
        return {key.casefold() for name in self.videos for key in (name, bare(name))}


def list_files(root: str | os.PathLike, depth: int | None = None) -> Files:
    """Looks at every file below a folder; no file's content but the first bytes of those of unknown suffix.

    Left out are hidden files and folders (a dot in front: ".Trash", "._x.avi" of macOS), those that systems make,
    CSV tables and DICOMDIR. Linked folders are not followed.

    Args:
      depth: levels of folders below `root` that are looked into; None for all.
    """
    root = pathlib.Path(root)
    videos, not_read, passed_over = {}, {}, collections.Counter()

    def closed(error: OSError) -> None:
        passed_over[CLOSED] += 1

    progress = Progress("files looked at", always=False)  # a million files, or a slow disk
    for folder, folders, files in os.walk(root, onerror=closed):
        inside = pathlib.Path(folder).relative_to(root)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        passed_over[LINKED] += sum(os.path.islink(os.path.join(folder, name)) for name in folders)
        if depth is not None and len(inside.parts) >= depth:
            folders.clear()
        for name in sorted(files):
            progress.add()
            path = root / inside / name
            if is_hidden(name) or name.upper() == "DICOMDIR" or name.lower().endswith(".csv"):
                continue
            key = plain((inside / name).as_posix())
            if key in videos or key in not_read:
                passed_over[SAME_NAME] += 1
                continue
            try:
                kind = read.format_of(path)
            except OSError:  # it may not be opened; with a suffix that is read its reader will say so
                kind = None
            if kind is None:
                not_read[key] = pathlib.PurePosixPath(key).suffix.lower()
            else:
                videos[key] = path
    ordered = {name: videos[name] for name in sorted(videos)}
    return Files(root, ordered, dict(sorted(not_read.items())), {k: n for k, n in passed_over.items() if n})


def plain(name: str) -> str:
    """A path as names are compared: "/" between folders, composed Unicode, bytes that are no text as "%E9"."""
    # Python keeps such a byte as a surrogate, which neither a table nor a terminal takes.
    text = _BYTE.sub(lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", name.replace("\\", "/"))
    return unicodedata.normalize("NFC", text).removeprefix("./")


def is_hidden(name: str) -> bool:
    """Whether a name, or a folder in it, is hidden or a system's own."""
    parts = [part for part in name.split("/") if part not in (".", "..")]
    return any(part.startswith(".") or part.lower() in _NOT_THE_USERS for part in parts)


def bare(name: str) -> str:
    """A name without the suffix of a format that is read."""
    known = sorted(read.READERS, key=len, reverse=True)
    return next((name[: -len(suffix)] for suffix in known if name.lower().endswith(suffix)), name)


def suffixes() -> list[str]:
    """Of the formats that are read."""
    return sorted(read.READERS)


def told(suffix: str, private: bool) -> str:
    """A suffix in words; of a private archive only one that many files of the world have."""
    if not suffix:
        return NO_SUFFIX
    kinds = mimetypes.MimeTypes(filenames=())
    known = suffix in _KNOWN or suffix in kinds.types_map[True] or suffix in read.READERS
    return suffix if known or not private else OTHER


def in_words(counts: dict[str, int]) -> str:
    """`Files.counts` as a list for people: "15 .mov, 1 without suffix"."""
    return ", ".join(f"{count} {what}" for what, count in counts.items())


def separator_hint(header: Sequence[str]) -> str:
    """What to say of a CSV whose first line is one cell because something else than a comma separates them."""
    for character, name in ((";", "semicolons (;)"), ("\t", "tabs"), ("|", "bars (|)")):
        if len(header) == 1 and character in header[0]:
            return f" Its cells are separated by {name}: save it with commas."
    return ""


def _by_bare(names) -> dict[str, list[str]]:
    result: dict[str, list[str]] = {}
    for name in names:
        result.setdefault(bare(name), []).append(name)
    return result


def _commonest(values: Sequence[str]) -> str:
    return collections.Counter(values).most_common(1)[0][0]
