"""The table that `extract` and `predict` write: one row per video of a folder or a CSV, by one process or by several.

The input is cut into chunks of files. Each is a part on disk until all are there; then the parts become the table. So
what was killed goes on where it stopped, and several processes, on several machines with a common disk, share the work
(`Shard`). They share whole chunks, not files: a network's features of a video may change in their last bits with the
batch that it is in, and a chunk makes the same batches whoever embeds it. So the table is that of one process.
"""

import contextlib
import csv
import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from discovr_jax import file_lock
from discovr_jax.data import inputs as inputs_lib
from discovr_jax.data import private
from discovr_jax.data.inputs import Input
from discovr_jax.evaluation.features import input_videos
from discovr_jax.evaluation.features.feature_table import FeatureTable, write_json
from discovr_jax.progress import Progress

CHUNK = 16  # files that are embedded, and then written, at a time
QUARANTINE, SKIPPED = input_videos.QUARANTINE, input_videos.SKIPPED
UNFINISHED = "unfinished_shards"  # of the card of a shard that ended before others
_MOST_NAMED = 10  # shards that a message names


class ExtractError(ValueError):
    """Nothing to read or nowhere to write; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """Which of `count` processes this is, from 1: its chunks are every `count`-th from the `index`-th on.

    Raises:
      ExtractError: no such process.

    >>> str(Shard.parse("2/8"))
    '2/8'
    """

    index: int
    count: int

    def __post_init__(self):
        if not 1 <= self.index <= self.count:
            raise ExtractError(f"--shard={self}: of N processes the first is --shard=1/N and the last --shard=N/N")

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """From I/N, as --shard has it."""
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal()):
            raise ExtractError(f"--shard={text}: it is I/N, as in --shard=2/8 for the second of eight processes")
        return cls(int(index), int(count))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def open_table(output: str | os.PathLike, *columns_and_notice) -> FeatureTable:
    """The table of --output; other arguments as of `FeatureTable`.

    Raises:
      ExtractError: its name does not end in .parquet, or it is that of a folder.
    """
    path = pathlib.Path(output).absolute()
    if path.suffix != ".parquet" or path.is_dir():
        is_folder = " is a folder" if path.is_dir() else ""
        raise ExtractError(f"--output={output}{is_folder}: the table is Parquet, give a file that ends in .parquet")
    return FeatureTable(path, *columns_and_notice)


def write_table(
    out: FeatureTable,
    source: str | os.PathLike,
    settings: dict,
    make: Callable[[Sequence[Input], list, bytes], list[dict]],
    *,
    show_paths: bool,
    hide_paths: bool,
    private_dir: str | os.PathLike | None,
    csv: str | os.PathLike | None,
    whole_frame: bool,
    workers: int,
    shard: Shard | None = None,
) -> dict:
    """Read every video of `source`, and write what `make` says of it; arguments and errors as of `extract`.

    Args:
      settings: of the card; a table or a part of one that was made with others is refused.
      make: (files, what `input_videos` read of each, salt) -> a row for each, without its id; one that goes on a list
        holds `list` and `reason`.
    """
    given = inputs_lib.find(source, private_names=not show_paths, csv=csv)
    files = given.files
    _check_private(private_dir, out)
    settings = settings | {"whole_frame": whole_frame, "show_paths": show_paths, "hide_paths": hide_paths}
    settings |= {"inputs": len(files)} | given.of_table()
    if out.table.exists():
        return _finished(out, settings, private_dir)
    with _alone(out, shard):
        salt = private.open_salt(out.partial if private_dir is None else private_dir)
        # Row numbers must mean the same files to all, and a file have one id; a keyed hash tells nobody the names.
        names = private.salted_id(salt, "\n".join(one.name for one in files))
        naming = {"names": names, "chunk": CHUNK}
        shards = _begin(out, settings | naming, shard)
        ids = [inputs_lib.identity(one, salt, show_paths, hide_paths) for one in files]
        if private_dir is not None:
            shown = {key: str(one.path.absolute()) for key, one in zip(ids, files, strict=True) if one.path is not None}
            private.write_map(private_dir, private.ID_MAP, "path", shown)

    def rows_of(chunk: Sequence[Input], videos: list) -> list[dict]:
        return [row | {"id": ids[row["row"]]} for row in make(chunk, videos, salt)]

    numbers = range(-(-len(files) // CHUNK))
    if shard is not None or shards == 1:
        mine = shard or Shard(1, 1)
        with _alone(out, shard, mine):
            mine_of_all = numbers[mine.index - 1 :: mine.count]
            _fill(out, mine_of_all, files, rows_of, settings["features"], whole_frame, workers)
    with _alone(out, shard):
        if out.table.exists():  # the last shards ended together, and another one was faster
            card = _finished(out, settings, private_dir)
        elif unfinished := _unfinished(out, numbers, shards):
            if shard is None:
                raise ExtractError(
                    f"--output={out.table} was begun in {shards} shards; not done: {in_words(unfinished)}. Run them "
                    f"(--shard={unfinished[0]}): the last one writes the table"
                )
            return settings | {UNFINISHED: unfinished}
        else:
            card = out.finish(settings | {"not_read": given.not_read})
    # Not under the lock: on NFS a folder with an open file is not removed. One that stays holds nothing.
    shutil.rmtree(out.partial, ignore_errors=True)
    if not card["rows"]:
        kind = QUARANTINE if card["quarantined"] else SKIPPED
        raise ExtractError(
            f"none of the {len(files)} files gave a row: {card['quarantined']} could not be read, {card['skipped']} "
            f"hold no clip; the first reason: {_first_reason(out.list_of(kind))} (all are in {out.list_of(kind)})"
        )
    return card


def _fill(
    out: FeatureTable,
    numbers: range,
    files: Sequence[Input],
    rows_of: Callable[[Sequence[Input], list], list[dict]],
    width: int,
    whole_frame: bool,
    workers: int,
) -> None:
    """Make the parts of these numbers that are not there yet."""
    if not numbers:
        return  # more shards than chunks
    chunks = [(number, files[number * CHUNK : (number + 1) * CHUNK]) for number in numbers]
    progress = Progress("files", sum(len(chunk) for _, chunk in chunks))
    done = out.done(numbers)
    progress(sum(done.values()))
    waiting = [(number, chunk) for number, chunk in chunks if number not in done]
    with ThreadPoolExecutor(max_workers=workers) as pool:
        for number, chunk, videos in input_videos.read_ahead(pool, waiting, whole_frame):
            out.write_part(number, rows_of(chunk, videos), width)
            progress.add(len(chunk))


def _first_reason(path: pathlib.Path) -> str:
    with open(path, newline="", encoding="utf-8") as file:
        return next(csv.DictReader(file))["reason"]


def _check_private(private_dir, out: FeatureTable) -> None:
    if private_dir is not None and pathlib.Path(private_dir).absolute() == out.table.parent:
        raise ExtractError(f"--private_dir={private_dir} is the output's folder: ids and names must be kept apart")


@contextlib.contextmanager
def _alone(out: FeatureTable, shard: Shard | None, mine: Shard | None = None) -> Iterator[None]:
    """Hold what all processes of a table share, waiting for it; or one's own shard `mine`, which nobody else may have.

    Raises:
      ExtractError: another process writes the shard; or the disk has no locks, which one process alone does without.
    """
    out.partial.mkdir(parents=True, exist_ok=True)
    name = "lock" if mine is None else f"shard-{mine.index}-of-{mine.count}.lock"
    handle = os.open(out.partial / name, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            if mine is None:
                file_lock.lock(handle, wait=True)
            else:
                file_lock.claim(handle)
        except file_lock.InUseError as error:
            whose = f"--output={out.table}" if shard is None else f"--shard={shard} of --output={out.table}"
            raise ExtractError(f"{whose} is being written by process {error}: wait for it, or stop it") from None
        except OSError as error:
            if shard is not None:
                raise ExtractError(f"--shard needs a disk that locks files, and {out.partial}: {error}") from None
        yield
    finally:
        os.close(handle)


def _begin(out: FeatureTable, settings: dict, shard: Shard | None) -> int:
    """Begin, or go on with, a table; returns the number of its shards.

    Raises:
      ExtractError: what is there was made with other weights, settings or inputs, or in another number of shards.
    """
    path, asked = out.partial / "settings.json", 1 if shard is None else shard.count
    if not path.exists():
        write_json(path, settings | {"shards": asked})
        return asked
    begun = json.loads(path.read_text())
    shards = begun.pop("shards", 1)  # what an earlier version began does not say it, and is refused
    if begun != json.loads(json.dumps(settings)):
        raise ExtractError(
            f"{out.partial} was begun with other weights, settings or inputs: remove it, or choose another --output"
        )
    if shard is not None and shards != asked:
        how = "without --shard: go on so" if shards == 1 else f"in {shards} shards: give --shard=I/{shards}"
        raise ExtractError(f"{out.partial} was begun {how}, or remove it")
    return shards


def _unfinished(out: FeatureTable, numbers: range, shards: int) -> list[str]:
    """The shards that lack a part, as I/N."""
    done = out.numbers()
    return [f"{first + 1}/{shards}" for first in range(shards) if not done.issuperset(numbers[first::shards])]


def in_words(shards: Sequence[str]) -> str:
    """Shards by their names, the first of many.

    >>> in_words(["1/8", "3/8"])
    '1/8, 3/8'
    """
    others = len(shards) - _MOST_NAMED
    return ", ".join(shards[:_MOST_NAMED]) + (f" and {others} more" if others > 0 else "")


def _finished(out: FeatureTable, settings: dict, private_dir: str | os.PathLike | None) -> dict:
    """The card of a table that is there already, if this command made it."""
    if private_dir is not None and not (pathlib.Path(private_dir) / private.ID_MAP).exists():
        raise ExtractError(
            f"--output={out.table} exists, and --private_dir={private_dir} lacks {private.ID_MAP}, which says which "
            "file each id is: name the folder that it was made with, or remove the table"
        )
    card = json.loads(out.card.read_text()) if out.card.exists() else {}
    if any(card.get(key) != value for key, value in json.loads(json.dumps(settings)).items()):
        raise ExtractError(
            f"--output={out.table} exists, from other weights, settings or inputs: choose another, or remove it"
        )
    return card
