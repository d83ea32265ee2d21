"""Looks at prepared records: a summary, a check of all that can be wrong with them, a contact sheet."""

import collections
import json
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from discovr_jax.data import records

LABELS = ("ef", "rvef", "edv", "esv", "ivsd", "lvidd", "lvpwd")
# Wide enough for any heart: a value outside is a unit or a column mixed up.
_RANGES = {
    "fps": (1, 1000), "ef": (0, 100), "rvef": (0, 100), "edv": (0, 1000), "esv": (0, 1000),
    "ivsd": (0, 10), "lvidd": (0, 20), "lvpwd": (0, 10), "source_label": (-1, 1),
}  # fmt: skip


def open_all(path: pathlib.Path) -> dict[str, records.RecordSource]:
    """Opens every split of the records at `path`; raises RecordsError as `records.open_source` does."""
    found = [split for split in records.SPLITS if list(path.glob(f"*-{split}.array_record-*"))]
    # Without any shard, opening the first split raises the error that says so.
    return {split: records.open_directory(path, split) for split in found or records.SPLITS[:1]}


def metadata(path: pathlib.Path) -> dict:
    """What metadata.json beside the records holds: schema, frame size, options, counts of the build."""
    return json.loads((path / "metadata.json").read_text(encoding="utf-8"))


def summarise(path: pathlib.Path) -> dict:
    """Counts by split: records, patients, frames, masks, known and unknown labels.

    Returns:
      {"path", "splits": {split: {"records", "patients", "frames", "masks", "labels": {name: {"known",
      "unknown"}}}}, "flags": {flag: records}, "quarantined": videos left out, "notes": {what: count}}.
    """
    metadata = json.loads((path / "metadata.json").read_text())
    rows = records.manifest_rows(path) or []
    splits = {}
    for split, source in open_all(path).items():
        fields = records.record_fields(source, ("patient_id", "num_frames", *LABELS))
        known = {name: int(np.isfinite(fields[name]).sum()) for name in LABELS}
        splits[split] = {
            "records": len(source),
            "patients": len(set(fields["patient_id"])),
            "frames": int(fields["num_frames"].sum()),
            "masks": sum(int(row["num_masks"]) for row in rows if row["split"] == split),
            "labels": {
                name: {"known": count, "unknown": len(source) - count} for name, count in known.items()
            },
        }
    flags = collections.Counter(flag for row in rows for flag in row["flags"].split())
    return {
        "path": str(path),
        "splits": splits,
        "flags": dict(sorted(flags.items())),
        "quarantined": metadata["quarantined"],
        "notes": metadata["notes"],
    }


def format_summary(summary: dict) -> str:
    """The summary as lines for people."""
    lines = [f"Records at {summary['path']}"]
    total: collections.Counter = collections.Counter()
    for split, counts in summary["splits"].items():
        numbers = [f"{counts[name]} {name}" for name in ("records", "patients", "frames", "masks")]
        known = [
            f"{name.upper()} known {label['known']} of {counts['records']}"
            for name, label in counts["labels"].items()
            if label["known"]
        ]
        lines.append(f"  {split + ':':6} " + ", ".join(numbers + known))
        total.update({name: label["unknown"] for name, label in counts["labels"].items()})
    lines.append("  " + ", ".join(f"{name.upper()} unknown: {total[name]}" for name in LABELS))
    if summary["flags"]:
        lines.append("  flags: " + ", ".join(f"{flag} {count}" for flag, count in summary["flags"].items()))
    if summary["notes"]:
        lines.append("  source: " + ", ".join(f"{what} {count}" for what, count in summary["notes"].items()))
    lines.append(f"  quarantined: {summary['quarantined']}")
    return "\n".join(lines)


def check(path: pathlib.Path, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Reads everything and lists what is wrong: files, counts, every frame, splits, duplicates, label ranges.

    Args:
      path: the directory of the records.
      progress: called with (records done, records in all).

    Returns:
      One line per problem; empty if the records are sound.
    """
    try:
        sources = open_all(path)
        rows = records.manifest_rows(path)
        metadata = json.loads((path / "metadata.json").read_text())
        quarantined = len((path / "quarantine.csv").read_text().splitlines()) - 1
    except (records.RecordsError, OSError, json.JSONDecodeError) as error:
        return [str(error)]
    if rows is None:
        return [f"{path / 'manifest.csv'} is missing; prepare the records again."]
    problems = []
    if quarantined != metadata.get("quarantined"):
        problems.append(
            f"quarantine.csv lists {quarantined}, metadata.json {metadata.get('quarantined')} videos."
        )
    expected = {(row["split"], row["id"]): row["sha256"] for row in rows}
    if len(expected) != len(rows):
        problems.append(f"manifest.csv: {len(rows) - len(expected)} ids occur more than once.")
    seen: dict[str, dict[str, set[str]]] = {"patient": {}, "id": {}, "content of": {}}
    total, done = sum(map(len, sources.values())), 0
    for split, source in sources.items():
        for index in range(len(source)):
            try:
                record = source[index]
                digest = _check_frames(record, source.frame_size)
            except ValueError as error:
                problems.append(str(error))
            else:
                where = f"{split} record {record['id']}"
                problems += [f"{where}: {problem}" for problem in _record_problems(record)]
                if expected.pop((split, record["id"]), None) != digest:
                    problems.append(f"{where}: its frames are not those that manifest.csv lists.")
                for kind, value in zip(seen, (record["patient_id"], record["id"], digest), strict=True):
                    seen[kind].setdefault(value, set()).add(f"{split} {record['id']}")
            done += 1
            if progress:
                progress(done, total)
    problems += [f"{split} record {name} is in manifest.csv but not readable." for split, name in expected]
    return problems + list(_shared(seen))


def _check_frames(record: dict, size: int) -> str:
    """Decodes every frame; returns the content hash. Raises ValueError for a damaged frame."""
    return records.content_hash(records.decode_frames(record["frames"], size, size, record_id=record["id"]))


def _record_problems(record: dict) -> Iterator[str]:
    """What is wrong inside one record whose frames can be decoded."""
    count = len(record["frames"])
    if record["num_frames"] != count:
        yield f"num_frames is {record['num_frames']}, there are {count} frames."
    for name, (low, high) in _RANGES.items():
        if not np.isnan(record[name]) and not low <= record[name] <= high:
            yield f"{name} is {record[name]}, outside {low} to {high}."
    if record["esv"] > record["edv"]:
        yield f"esv {record['esv']} is above edv {record['edv']}."
    for name in ("ed_frame", "es_frame"):
        if not -1 <= record[name] < count:
            yield f"{name} is {record[name]}, there are {count} frames."
    lengths = {len(record[name]) for name in ("masks", "mask_frames", "mask_is_expert")}
    if len(lengths) > 1:
        yield f"masks, mask_frames and mask_is_expert differ in length: {sorted(lengths)}."
    if any(not 0 <= frame < count for frame in record["mask_frames"]):
        yield f"mask_frames {record['mask_frames'].tolist()} reach outside the {count} frames."
    if record["masks"].size and record["masks"].max() >= len(records.MASK_CLASSES):
        yield f"masks hold class {record['masks'].max()}, known are 0 to {len(records.MASK_CLASSES) - 1}."


def _shared(seen: dict[str, dict[str, set[str]]]) -> Iterator[str]:
    """Patients, ids and contents that are in more than one split."""
    for kind, owners in seen.items():
        for value, places in owners.items():
            if len({place.split(" ", 1)[0] for place in places}) > 1:
                what = "the same frames" if kind == "content of" else f"{kind} {value}"
                yield f"{what} in several splits: {', '.join(sorted(places))}."


def contact_sheet(
    path: pathlib.Path, file: pathlib.Path, *, columns: int = 6, rows: int = 4, seed: int = 0
) -> None:
    """Writes a PNG of random records, one frame of each: a traced one with its outline where there is any."""
    import cv2

    rng = np.random.default_rng(seed)
    places = [(source, index) for source in open_all(path).values() for index in range(len(source))]
    chosen = rng.choice(len(places), min(len(places), columns * rows), replace=False)
    tiles = []
    for source, index in (places[number] for number in sorted(chosen)):
        record, size = source[index], source.frame_size
        masked = len(record["masks"]) > 0
        which = rng.integers(len(record["masks"]) if masked else record["num_frames"])
        frame = int(record["mask_frames"][which] if masked else which)
        grey = records.decode_frames(record["frames"], size, size, [frame], record_id=record["id"])[0]
        scale = max(1, 224 // size)
        tile = cv2.cvtColor(cv2.resize(grey, None, fx=scale, fy=scale), cv2.COLOR_GRAY2BGR)
        for value, colour in ((1, (0, 255, 255)), (2, (0, 255, 0)), (3, (255, 128, 0))):
            if not masked:
                break
            area = (record["masks"][which] == value).astype(np.uint8)
            area = cv2.resize(area, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
            outlines, _ = cv2.findContours(area, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(tile, outlines, -1, colour, 1)
        moment = {record["ed_frame"]: " ED", record["es_frame"]: " ES"}.get(frame, "")
        ef = "unknown" if np.isnan(record["ef"]) else f"{record['ef']:.0f}"
        caption = f"{source.split} EF {ef} frame {frame}{moment}"
        for line, text in enumerate((record["id"], caption)):
            cv2.putText(tile, text, (2, 10 + 12 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (255, 255, 255), 1)
        tiles.append(tile)
    blank = np.zeros_like(tiles[0])
    tiles += [blank] * (-len(tiles) % columns)
    lines = [np.concatenate(tiles[start : start + columns], 1) for start in range(0, len(tiles), columns)]
    file.write_bytes(cv2.imencode(".png", np.concatenate(lines))[1].tobytes())
