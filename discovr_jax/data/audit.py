"""Looks at prepared records: a summary, and a check of all that can be wrong with them."""

import collections
import csv
import json
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from discovr_jax.data import class_labels, labels, manifest, measurements, mixture, records

RULES = tuple(sorted(set(mixture.RULES.values())))
_CLASSES = ("normal", "abnormal")
LABELS = ("ef", "rvef", "edv", "esv", "ivsd", "lvidd", "lvpwd")


def open_all(path: pathlib.Path) -> dict[str, records.RecordSource]:
    """Opens every split of the records at `path`; raises RecordsError as `records.open_source` does."""
    result = [split for split in records.SPLITS if list(path.glob(f"*-{split}.array_record-*"))]
    # Without any shard, opening the first split raises the error that says so.
    return {split: records.open_directory(path, split) for split in result or records.SPLITS[:1]}


def metadata(path: pathlib.Path) -> dict:
    """What metadata.json beside the records holds: schema, frame size, options, counts of the build.

    Raises:
      RecordsError: it is damaged.
    """
    try:
        about = json.loads((path / "metadata.json").read_bytes())
        options = about.get("options", {})
        if isinstance(about["notes"], dict) and isinstance(options, dict) and isinstance(about["quarantined"], int):
            return about
        reason = "notes, options or quarantined of another kind"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
    raise records.RecordsError(f"{path / 'metadata.json'} is damaged ({reason}); prepare the records again.") from None


def summarise(path: pathlib.Path) -> dict:
    """Counts by split: records, patients, frames, masks, views, known labels, normal and abnormal by each rule.

    Returns:
      {"path", "manifest_sha256": or None, "splits": {split: {"records", "patients", "frames", "masks", "fps_unknown":
      records, "views": {view: records}, "classes": {target: {class: records}}, "known": {label: records}, "rules":
      {rule: {"normal", "abnormal", "unknown"}}}}, "flags": {flag: records}, "quarantined": videos left out, "skipped":
      files that hold no clip, "notes": {what: count}, "csv": whether the builder reads a CSV,
      "split": how the builder was told to split, empty if it has no such option}.
    """
    about = metadata(path)
    rows = manifest.rows(path) or []
    splits, sources = {}, open_all(path)
    classes = _count_classes(sources)
    for split, source in sources.items():
        fields = records.record_fields(source, ("patient_id", "num_frames", "view", "source_label", "fps", *LABELS))
        rules = {rule: labels.normal_label(fields, rule) for rule in RULES}
        splits[split] = {
            "records": len(source),
            "patients": len(set(fields["patient_id"])),
            "frames": int(fields["num_frames"].sum()),
            "masks": sum(int(row["num_masks"]) for row in rows if row["split"] == split),
            "fps_unknown": int(np.isnan(fields["fps"]).sum()),
            "views": dict(sorted(collections.Counter(fields["view"].tolist()).items())),
            "classes": {name: counts[split] for name, counts in classes.items()},
            "known": {name: int(np.isfinite(fields[name]).sum()) for name in LABELS},
            "rules": {rule: _normal_counts(values) for rule, values in rules.items()},
        }
    flags = collections.Counter(flag for row in rows for flag in row["flags"].split())
    return {
        "path": str(path),
        "manifest_sha256": about.get("manifest_sha256"),
        "splits": splits,
        "flags": dict(sorted(flags.items())),
        "quarantined": about["quarantined"],
        "skipped": about.get("skipped", 0),
        "notes": about["notes"],
        "csv": "csv" in about,
        "split": str(about.get("options", {}).get("split") or ""),
    }


def _count_classes(sources) -> dict[str, dict[str, dict[str, int]]]:
    """{target: {split: {class: records}}}; raises RecordsError for a text that holds no classes."""
    try:
        targets = class_labels.decode(
            {split: records.record_fields(source, ["classes"])["classes"] for split, source in sources.items()}
        )
    except ValueError as error:
        raise records.RecordsError(f"manifest.csv is damaged ({error}); prepare the records again.") from None
    return {target.name: {split: target.counts(split) for split in sources} for target in targets}


def _normal_counts(values: np.ndarray) -> dict[str, int]:
    counts = {"normal": values == 0, "abnormal": values == 1, "unknown": np.isnan(values)}
    return {name: int(which.sum()) for name, which in counts.items()}


def _title(rule: str) -> str:
    """What people call a rule: of what the dataset itself says, as the column of a CSV is called."""
    return "class" if rule == "source_label" else rule


def format_summary(summary: dict) -> str:
    """The summary as lines for people; labels and rules that no record of a split knows are left out."""
    lines = [f"Records at {summary['path']}"]
    if summary["manifest_sha256"]:
        lines.append(f"  manifest.csv (sha256): {summary['manifest_sha256']}")
    notes = dict(summary["notes"])
    # Of files, also of those that became no record: each was counted as one patient.
    unknown = notes.pop("patients_unknown", 0)
    files = summary["quarantined"] + summary["skipped"] + sum(each["records"] for each in summary["splits"].values())
    for split, counts in summary["splits"].items():
        numbers = [f"{counts[name]} {name}" for name in ("records", "patients", "frames", "masks")]
        if unknown:
            numbers[1] = "patients unknown" if unknown >= files else f"at most {numbers[1]}"
        lines.append(f"  {split + ':':6} " + ", ".join(numbers))
        views = [f"{view or 'unknown'} {count}" for view, count in counts["views"].items()]
        lines.append("         view: " + ", ".join(views))
        for name, of_class in counts["classes"].items():
            shares = [f"{one or 'unknown'} {count}" for one, count in of_class.items() if count]
            lines.append(f"         {name}: " + ", ".join(shares))
        known = [f"{name.upper()} {count}" for name, count in counts["known"].items() if count]
        lines.append("         measurements known: " + (", ".join(known) or "none"))
        for rule, result in counts["rules"].items():
            if result["normal"] or result["abnormal"]:
                lines.append(f"         {_title(rule)}: " + ", ".join(f"{result[name]} {name}" for name in result))
    if unknown:
        lines.append(f"  patient unknown: {unknown} files, each counted as one patient; splits may share patients")
    if without_rate := sum(each["fps_unknown"] for each in summary["splits"].values()):
        count = sum(each["records"] for each in summary["splits"].values())
        advice = " (give `fps` in the CSV)" if summary["csv"] else ""
        lines.append(f"  frame rate unknown: {without_rate} of {count}{advice}")
    if summary["flags"]:
        lines.append("  flags: " + ", ".join(f"{flag} {count}" for flag, count in summary["flags"].items()))
    if noted := [f"{what} {count}" for what, count in notes.items() if count]:
        lines.append("  source: " + ", ".join(noted))
    if summary["skipped"]:
        lines.append(f"  skipped, as they hold no clip: {summary['skipped']} (skipped.csv)")
    lines.append(f"  quarantined: {summary['quarantined']}")
    return "\n".join(lines)


def class_gaps(summary: dict) -> list[str]:
    """Which splits of a labelled set hold videos of one class only, or none, so that nothing can be scored there.

    Args:
      summary: of `summarise`.

    Returns:
      One line per rule by which something is known; the class that the set itself states comes before all rules.
    """
    counts = {rule: {split: each["rules"][rule] for split, each in summary["splits"].items()} for rule in RULES}
    known = [rule for rule in RULES if any(each[name] for each in counts[rule].values() for name in _CLASSES)]
    if "source_label" in known:
        known = ["source_label"]
    lines = [_class_gap(rule, counts[rule], summary["split"]) for rule in known]
    return [line for line in lines if line]


def _class_gap(rule: str, counts: dict[str, dict[str, int]], split_option: str) -> str:
    """The line of one rule; empty where every split holds both classes."""
    for name in _CLASSES:
        if not any(each[name] for each in counts.values()):
            return f"no video is {name} ({_title(rule)}): no AUROC"
    gaps = []
    for split in records.SPLITS:  # a split without a record is not among `counts`
        missing = [name for name in _CLASSES if not counts.get(split, {}).get(name)]
        if missing:
            gaps.append(f"{split} holds no {missing[0] if len(missing) == 1 else 'labelled'} video")
    if not gaps:
        return ""
    line = f"{', '.join(gaps)} ({_title(rule)}): no AUROC there"
    if split_option.startswith("hashed"):  # a hash does not look at labels
        column = "class" if rule == "source_label" else "ef"
        line += (
            f"; `--split=stratified:70/10/20 --stratify={column}` and another --data_dir cut it by {column} "
            "(the CSV then has no column split)"
        )
    return line


def check(
    path: pathlib.Path,
    progress: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> list[str]:
    """Reads everything and lists what is wrong: files, counts, every frame, splits, duplicates, label ranges.

    Args:
      path: the directory of the records.
      progress: called with (records done, records in all).
      note: called with a line for what is worth knowing but no fault: the same frames twice in one split.

    Returns:
      One line per problem; empty if the records are sound.
    """
    try:
        sources = open_all(path)
        rows = manifest.rows(path)
        about = metadata(path)
        with (path / "quarantine.csv").open(encoding="utf-8", newline="") as lines:
            quarantined = len(list(csv.DictReader(lines)))
    except (UnicodeDecodeError, csv.Error) as error:
        return [f"{path / 'quarantine.csv'} is damaged ({error}); prepare the records again."]
    except (records.RecordsError, OSError) as error:
        return [str(error)]
    if rows is None:
        return [f"{path / 'manifest.csv'} is missing; prepare the records again."]
    problems = list(_metadata_problems(path, about, rows, quarantined))
    expected = {(row["split"], row["id"]): row["sha256"] for row in rows}
    if len(expected) != len(rows):
        problems.append(f"manifest.csv: {len(rows) - len(expected)} ids occur more than once.")
    owners_of: dict[str, dict[str, list[str]]] = {"patient": {}, "id": {}, "frames": {}}
    patients: dict[str, set[str]] = {split: set() for split in sources}
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
                for kind, value in zip(owners_of, (record["patient_id"], record["id"], digest), strict=True):
                    owners_of[kind].setdefault(value, []).append(f"{split} {record['id']}")
                patients[split].add(record["patient_id"])
            done += 1
            if progress:
                progress(done, total)
    problems += [f"{split} record {name} is in manifest.csv but not readable." for split, name in expected]
    counted = {split: len(result) for split, result in patients.items()}
    if counted != about.get("patients"):
        problems.append(f"The records are of {counted} patients, metadata.json says {about.get('patients')}.")
    problems += _shared(owners_of)
    for listed in owners_of["frames"].values():
        if note and len(listed) > 1 and len({_split(place) for place in listed}) == 1:
            note(f"the same frames twice in one split: {', '.join(sorted(listed))}.")
    return problems


def _metadata_problems(path: pathlib.Path, about: dict, rows: list[dict], quarantined: int) -> Iterator[str]:
    """Where metadata.json and the files beside it disagree."""
    if quarantined != about.get("quarantined"):
        yield f"quarantine.csv lists {quarantined}, metadata.json {about.get('quarantined')} videos."
    if about.get("schema_version") not in records.READABLE:
        yield f"metadata.json: schema version {about.get('schema_version')}, this code reads {records.READABLE}."
    if about.get("frame_size") != records.split_config_name(path.parent.name)[1]:
        yield f"metadata.json: frame_size {about.get('frame_size')}, but the folder is {path.parent.name}."
    if about.get("manifest_sha256") != manifest.sha256(path):
        yield "manifest.csv was changed since the build: its SHA-256 is not that of metadata.json."


def _check_frames(record: dict, size: int) -> str:
    """Decodes every frame; returns the content hash. Raises ValueError for a damaged frame."""
    return records.content_hash(records.decode_frames(record["frames"], size, size, record_id=record["id"]))


def _record_problems(record: dict) -> Iterator[str]:
    """What is wrong inside one record whose frames can be decoded."""
    count = len(record["frames"])
    if record["schema_version"] not in records.READABLE:
        yield f"schema version {record['schema_version']}, this code reads {records.READABLE}."
    try:
        class_labels.parse(record["classes"])
    except ValueError as error:
        yield f"{error}."
    if record["num_frames"] != count:
        yield f"num_frames is {record['num_frames']}, there are {count} frames."
    values = {name: float(record[name]) for name in measurements.PLAUSIBLE}
    for name in values:
        if reason := measurements.implausible(name, values):
            yield f"{name} is {record[name]:g}: {reason}."
    if record["source_label"] not in (-1, 0, 1):
        yield f"source_label is {record['source_label']}, not -1, 0 or 1."
    for name in ("ed_frame", "es_frame"):
        if not -1 <= record[name] < count:
            yield f"{name} is {record[name]}, there are {count} frames."
    lengths = {len(record[name]) for name in ("masks", "mask_frames", "mask_is_expert")}
    if len(lengths) > 1:
        yield f"masks, mask_frames and mask_is_expert differ in length: {sorted(lengths)}."
    if any(not 0 <= frame < count for frame in record["mask_frames"]):
        yield f"mask_frames {record['mask_frames'].tolist()} reach outside the {count} frames."
    spacing = record["pixel_spacing"]
    if not (np.isnan(spacing).all() or (np.isfinite(spacing) & (spacing > 0)).all()):
        yield f"pixel_spacing is {spacing.tolist()} mm; both must be above 0, or both unknown (NaN)."
    if record["masks"].size and record["masks"].max() >= len(records.MASK_CLASSES):
        yield f"masks hold class {record['masks'].max()}, known are 0 to {len(records.MASK_CLASSES) - 1}."


def _shared(owners_of: dict[str, dict[str, list[str]]]) -> Iterator[str]:
    """Patients, ids and contents that are in more than one split."""
    for kind, owners in owners_of.items():
        for value, listed in owners.items():
            if len({_split(place) for place in listed}) > 1:
                what = "the same frames" if kind == "frames" else f"{kind} {value}"
                yield f"{what} in several splits: {', '.join(sorted(listed))}."


def _split(listed: str) -> str:
    return listed.split(" ", 1)[0]
