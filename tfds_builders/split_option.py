"""The option `split` of sets that publish none: stratified by label, per patient, or as CardioBench's table has it."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

from tfds_builders import echo_builder, tables, unusable
from tfds_builders.splits import STRATIFIED, parse_split, stratified_splits


def option(table: str) -> echo_builder.Option:
    """The option; `table` is the one of CardioBench's data/splits that fits."""
    return echo_builder.Option(
        "split", str, f"{STRATIFIED}:70/10/20", "patients to train/val/test, each class with its share in every split; "
        f"or the path of CardioBench's {table}, whose split it is then"
    )  # fmt: skip


def read_table(split: str, columns: Sequence[str], root: pathlib.Path) -> list[dict[str, str]] | None:
    """Rows of the table that the option names, where it says or below `root`; None where it names none.

    Raises:
      SourceError: there is no such table, or it lacks a column.
    """
    if not split.lower().endswith(".csv"):
        return None
    path = pathlib.Path(split).expanduser()
    return tables.read_table(path if path.exists() else root / path, ("split", *columns))


def in_splits(
    clips: Sequence[echo_builder.Clip], split: str, rows: Sequence[dict[str, str]] | None, key: Callable[[dict], str]
) -> tuple[list[echo_builder.Clip], list[unusable.Bad]]:
    """The clips, each in its split; and those that the table does not know, and its rows without a clip.

    Args:
      clips: with `source_label` among their fields; their split is not looked at.
      split: of the option; rows: of `read_table` for it.
      key: the id of the clip of a row.

    Raises:
      SourceError: the option is no split, or a row's is none of train, val and test.
    """
    if rows is None:
        how, shares = parse_split(split)
        if how != STRATIFIED:
            raise tables.SourceError(f"--split is '{split}': {STRATIFIED}:70/10/20, or the path of a table (.csv).")
        strata: dict[str, list[int]] = {}
        for clip in clips:
            strata.setdefault(clip.patient_id, []).append(clip.fields["source_label"])
        chosen = stratified_splits(strata, 0, shares)
        return [dataclasses.replace(clip, split=chosen[clip.patient_id]) for clip in clips], []
    known = {}
    for row in rows:
        if row["split"] not in ("train", "val", "test"):
            raise tables.SourceError(f"{row['where']}: split is '{row['split']}', expected train, val or test.")
        known[key(row)] = row["split"]
    table, here = pathlib.Path(split).name, {clip.id for clip in clips}
    bad = [unusable.Bad(clip.path.name, f"{clip.where}: not in {table}") for clip in clips if clip.id not in known]
    bad += [unusable.Bad(key(row), f"{row['where']}: no such video") for row in rows if key(row) not in here]
    return [dataclasses.replace(clip, split=known[clip.id]) for clip in clips if clip.id in known], bad
