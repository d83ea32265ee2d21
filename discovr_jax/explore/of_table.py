"""The videos of a table of `discovr_jax.extract`, with columns of other tables; clips if the files are given."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from discovr_jax.evaluation.features.feature_table import READOUTS, FeatureTable
from discovr_jax.explore.clips import FileClips
from discovr_jax.explore.videos import ExploreError, Videos, text

NO_FILES = "Clips are not shown: the table does not say where its files are. Start again with --input=, as extracted."


def read(path: pathlib.Path, joined: Sequence[str] = (), files: str = "") -> Videos:
    """All rows of a table.

    Args:
      path: .parquet with columns id and features; others of numbers or text are shown too.
      joined: further tables, .parquet or .csv with a column id: those of `predict`, or labels.
      files: what was given to `extract` as --input.

    Raises:
      ExploreError: no features, or tables or files of something else.
    """
    table = _read_parquet(path)
    if "features" not in table.column_names:
        if "anomaly_score" in table.column_names:
            raise ExploreError(
                f"{path} holds predictions, no features: make a table of the same --input with discovr_jax.extract, "
                f"then: python -m discovr_jax.explore FEATURES.parquet --join={path}"
            )
        raise ExploreError(f"{path} has no column features (its columns: {', '.join(table.column_names)[:200]})")
    if "id" not in table.column_names:
        raise ExploreError(f"{path} has no column id, which names the videos")
    features = _features(path, table["features"])
    frame = _plain(table.drop_columns(["features"]).to_pandas())
    _check_unique(path, frame["id"])
    masks = None
    for other in joined:
        frame, found = _join(frame, pathlib.Path(other), path)
        masks = masks if found is None else found
    clips = None
    if files:
        if not {"row", "num_frames", "height", "width"} <= set(frame):
            raise ExploreError(f"--input needs the columns of discovr_jax.extract; {path} has not got them")
        card = FeatureTable(path).card
        expected = json.loads(card.read_text(encoding="utf-8")).get("inputs") if card.is_file() else None
        clips = FileClips(files, frame[["row", "id", "num_frames", "height", "width"]], expected, masks)
    parts = json.loads((table.schema.metadata or {}).get(READOUTS.encode(), b"{}"))
    return Videos(
        path.name, ", ".join(parts) or "features", frame.drop(columns="row", errors="ignore"), features, clips,
        "" if clips else NO_FILES,
    )  # fmt: skip


def _read_parquet(path: pathlib.Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ExploreError(f"{path} is no Parquet file that can be read ({str(error)[:200]})") from None


def _features(path: pathlib.Path, column) -> np.ndarray:
    """float32 [N, D] of a column of lists."""
    import pyarrow as pa

    try:
        flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        return flat.reshape(len(column), -1) if len(column) else flat.reshape(0, 1)
    except (AttributeError, pa.ArrowInvalid, ValueError) as error:
        raise ExploreError(
            f"{path}: the column features must hold a list of numbers, equally many in each row ({error})"
        ) from None


def _check_unique(path: pathlib.Path, ids: Any) -> None:
    if ids.duplicated().any():
        raise ExploreError(f"{path}: the id {ids[ids.duplicated()].iloc[0]!r} stands there twice")


def _plain(frame: Any) -> Any:
    """Columns of numbers and text alone; truth values are text."""
    import pandas as pd

    kept = {}
    for name, column in frame.items():
        if name == "id" or pd.api.types.is_bool_dtype(column):
            kept[name] = text(column)
        elif pd.api.types.is_numeric_dtype(column):
            kept[name] = column.astype(float)
        elif column.map(lambda value: value is None or value != value or isinstance(value, bool | str)).all():
            kept[name] = text(column)
    return pd.DataFrame(kept, index=frame.index)


def _join(frame: Any, path: pathlib.Path, onto: pathlib.Path) -> tuple[Any, Any]:
    """Columns that the table has not yet, and the masks of `predict` (None without), in the order of its rows."""
    import pandas as pd

    if path.suffix == ".csv":
        try:
            other = pd.read_csv(path, dtype={"id": str})
        except (OSError, ValueError) as error:
            raise ExploreError(f"--join={path} cannot be read ({str(error)[:200]})") from None
    else:
        other = _read_parquet(path).to_pandas()
    if "id" not in other:
        raise ExploreError(f"--join={path} has no column id")
    _check_unique(path, other["id"])
    other = other.set_index("id").reindex(frame["id"])
    if other.isna().all(axis=None):
        raise ExploreError(
            f"--join={path}: none of its ids is in {onto}: ids of DICOM files differ per table, unless both were made "
            "with the same --private_dir (or --show_paths)"
        )
    other.index = frame.index
    masks = other.filter(regex="^lv_e[ds]_(frame|mask_png)$")
    plain = _plain(other.drop(columns=[*masks, "notice"], errors="ignore"))
    measured = {f"{name}_low"[:-4] for name in plain if f"{name}_low" in plain}
    plain = plain.rename(columns={name: f"{name}_predicted" for name in measured})
    return frame.join(plain[[name for name in plain if name not in frame]]), masks if len(masks.columns) == 4 else None
