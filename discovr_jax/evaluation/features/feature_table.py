"""A table of features that is written part by part: killed, what is done is kept; no more than a part is in memory."""

import csv
import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Callable, Container, Iterator
from typing import Any

_PART = re.compile(r"part-(\d+)\.parquet")
_ROW_GROUP = 2**26  # bytes of features that are gathered before they are written to the table
READOUTS = "readouts"  # of the table's metadata: JSON {pooling: its share of `features`}, in their order
LISTS = ("quarantine", "skipped")  # of files without features: unusable, and sound ones that hold no clip


def feature_columns(width: int) -> dict[str, Any]:
    """A column of `width` features."""
    import pyarrow as pa

    return {"features": pa.list_(pa.float32(), width)}


@dataclasses.dataclass(frozen=True)
class FeatureTable:
    """The files that an extraction writes; `partial` holds what is done until all is.

    Attributes:
      table: the .parquet file.
      columns: (number of features) -> the columns after those of the file itself: {name: type of pyarrow}.
      notice: kept in the table's metadata, under "notice"; "" for none.
    """

    table: pathlib.Path
    columns: Callable[[int], dict[str, Any]] = feature_columns
    notice: str = ""

    @property
    def card(self) -> pathlib.Path:
        """NAME.card.json."""
        return self.table.with_suffix(".card.json")

    @property
    def partial(self) -> pathlib.Path:
        """The folder of the parts."""
        return self.table.with_name(f"{self.table.name}.partial")

    def list_of(self, kind: str) -> pathlib.Path:
        """The CSV of one of `LISTS`."""
        return self.table.with_suffix(f".{kind}.csv")

    def write_part(self, number: int, rows: list[dict[str, Any]], width: int) -> None:
        """Keeps the rows of a part: values of the table, or `list` (of `LISTS`) and `reason` instead of features."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.partial / f"part-{number}.parquet"
        temporary = path.with_name(f".{path.name}.tmp")
        pq.write_table(pa.Table.from_pylist(rows, schema=self._schema(width, whole=False)), temporary)
        os.replace(temporary, path)

    def numbers(self) -> set[int]:
        """Of the parts that are there."""
        return {number for number, _ in self._parts()}

    def done(self, wanted: Container[int]) -> dict[int, int]:
        """Rows of each of these parts that is whole; one that a full disk cut short is removed."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        result = {}
        for number, path in self._parts():
            if number not in wanted:
                continue
            try:
                result[number] = pq.read_metadata(path).num_rows
            except (pa.ArrowInvalid, OSError):
                path.unlink()
        return result

    def finish(self, card: dict[str, Any]) -> dict[str, Any]:
        """Table, lists and card from the parts; the table, which says that all is done, comes last.

        Returns:
          The card with "rows", "quarantined" and "skipped"; of no rows there are only the lists. The parts stay.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = self._schema(card["features"], whole=True)
        if "features" in schema.names:
            schema = schema.with_metadata((schema.metadata or {}) | {READOUTS: json.dumps(card["readouts"])})
        temporary, counts = self.partial / "table.parquet", dict.fromkeys(("rows", *LISTS), 0)
        waiting: list[pa.Table] = []
        size = 0  # of these in bytes, counted along: to ask each of them at every part is quadratic
        lists = {kind: _List(self.list_of(kind)) for kind in LISTS}
        with pq.ParquetWriter(temporary, schema) as writer:

            def flush():
                if waiting:
                    writer.write_table(pa.concat_tables(waiting).combine_chunks())
                    waiting.clear()

            for part in self._read():
                named = part["list"].to_pylist()
                for row, kind in zip(part.select(["row", "id", "format", "reason"]).to_pylist(), named, strict=True):
                    if kind:
                        counts[kind] += 1
                        lists[kind].write(row)
                good = part.filter(pa.array([kind is None for kind in named])).select(schema.names)
                counts["rows"] += len(good)
                waiting.append(good)
                size += good.nbytes
                if size >= _ROW_GROUP:
                    flush()
                    size = 0
            flush()
        for each in lists.values():
            each.close()
        card = card | {"rows": counts["rows"], "quarantined": counts["quarantine"], "skipped": counts["skipped"]}
        if counts["rows"]:
            write_json(self.card, card, indent=1)
            os.replace(temporary, self.table)
        return card

    def _schema(self, width: int, whole: bool):
        """Columns of the table (`whole`), or of its parts, where they may be missing for a reason."""
        import pyarrow as pa

        fields = {
            "row": pa.int32(), "id": pa.string(), "format": pa.string(), "num_frames": pa.int32(),
            "height": pa.int32(), "width": pa.int32(), "fps": pa.float32(), "flags": pa.string(),
            **self.columns(width),
        }  # fmt: skip
        fields |= {} if whole else {"list": pa.string(), "reason": pa.string()}
        return pa.schema(fields, metadata={"notice": self.notice} if self.notice else None)

    def _parts(self) -> list[tuple[int, pathlib.Path]]:
        names = ((_PART.fullmatch(path.name), path) for path in self.partial.iterdir())
        return sorted((int(match[1]), path) for match, path in names if match)

    def _read(self) -> Iterator:
        import pyarrow.parquet as pq

        for _, path in self._parts():
            yield pq.read_table(path)


class _List:
    """A CSV of files without features, made when the first is known; one of an earlier extraction goes."""

    def __init__(self, path: pathlib.Path):
        self._path, self._file = path, None
        path.unlink(missing_ok=True)

    def write(self, row: dict[str, Any]) -> None:
        if self._file is None:
            self._file = open(self._path, "w", newline="", encoding="utf-8")
            self._writer = csv.DictWriter(self._file, ["row", "id", "format", "reason"])
            self._writer.writeheader()
        self._writer.writerow(row)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def write_json(path: pathlib.Path, value, indent: int | None = None) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=indent) + "\n")
    os.replace(temporary, path)
