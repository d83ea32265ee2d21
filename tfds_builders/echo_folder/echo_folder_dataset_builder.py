"""Any tree of echocardiography videos, with or without a CSV; for archives that must stay private. See README.md."""

import dataclasses
import hashlib
import math
import pathlib

import numpy as np

from discovr_jax.data import file_listing, file_table, private, records
from discovr_jax.data.io.video import NotAClip, VideoError, at_constant_rate
from discovr_jax.data.letterbox import letterbox
from discovr_jax.data.read import read_video, study_of
from discovr_jax.data.sector import isolate_video
from discovr_jax.progress import Progress
from tfds_builders import echo_builder, private_home, tables, unusable
from tfds_builders.echo_folder import class_columns, listing
from tfds_builders.splits import HASHED, hashed_split, parse_split, stratified_splits

PATIENT_FROM = ("column", "folder")
UNVERIFIED = "cannot be verified: no patients are given, each file was taken for a patient of its own"
VERIFIED = "verified: no patient, as {} names them, is in two splits"


class Builder(echo_builder.EchoBuilder):
    """Builder of `echo_folder`."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "Point --manual_dir at the folder that holds the videos, at any depth."
    RELEASE_NOTES = {records.BUILDER_VERSION: "First release."}
    IS_STUDY = True
    OPTIONS = (
        echo_builder.Option("csv", str, None, "table with columns Path, class; see the README", recorded=False),
        echo_builder.Option(
            "private_dir", str, None, "where the salt and the names behind the ids are kept", recorded=False
        ),
        echo_builder.Option("show_paths", bool, False, "the archive is not private: ids are paths, errors name files"),
        echo_builder.Option("patient_from", str, "column", "column: patient_id of the CSV; folder: the parent folder"),
        echo_builder.Option(
            "split", str, "hashed:80/10/10", "patients to train/val/test where the CSV has no column split; or "
            "stratified:70/10/20, for small archives: each class has its share in every split"
        ),
        echo_builder.Option(
            "stratify", str, None, "column of a stratified split: class, ef (in quartiles), or one of --class_columns "
            "and --grade_columns (default: the first of these)"
        ),
        echo_builder.Option("split_seed", int, 0, "of the split, where the CSV has no column split"),
        echo_builder.Option(
            "class_columns", str, None, "columns of the CSV that hold classes, with commas: view,diagnosis"
        ),
        echo_builder.Option(
            "grade_columns", str, None, "columns that hold grades: as (whole numbers), mr=none/mild/moderate/severe"
        ),
        echo_builder.Option(
            "multilabel_columns", str, None, "columns that hold any number of labels: effusion|thrombus; | for none"
        ),
        echo_builder.Option("keep_doppler", bool, False, "keep colour Doppler, flagged, instead of refusing it"),
        echo_builder.Option("whole_frame", bool, False, "keep all that is on the screen, not the sector alone"),
    )

    @property
    def private_dir(self) -> pathlib.Path | None:
        """Where the names are kept; None where they need not be."""
        return private_home.of_option(self.options["private_dir"])

    def find_clips(self, manual_dir: pathlib.Path) -> echo_builder.Listing:
        """Lists the files of the tree, or those of the CSV; makes ids, patients and splits."""
        if self.options["patient_from"] not in PATIENT_FROM:
            raise tables.SourceError(f"--patient_from must be {' or '.join(PATIENT_FROM)}.")
        salt = self._open_salt()
        root = manual_dir.absolute()
        files, notes, hidden = file_listing.list_files(root), {}, salt is not None
        not_read = files.counts(hidden)
        if not files.videos:
            others = f" Not read: {file_listing.in_words(not_read)}." if not_read else ""
            raise tables.SourceError(f"{manual_dir} holds no videos.{others} {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        names = ("class_columns", "grade_columns", "multilabel_columns")
        classes = class_columns.Cells(class_columns.parse(*(self.options[name] for name in names)))
        if (table := self._csv(root)) is None:
            if classes.columns:
                raise tables.SourceError("--class_columns and the like name columns of a CSV: give --csv.")
            rows = listing.list_files(files)
        else:
            rows, notes["videos_without_row"] = listing.read_csv(table, files, classes)
        listed, progress = [], Progress("files listed", len(rows), always=False)
        for row in rows:  # of a DICOM file the header is read
            listed.append(self._clip(row, salt))
            progress.add()
        clips = self._in_splits(listed, rows, classes.columns)
        notes |= {
            "class_unknown": sum(row.source_label < 0 for row in rows),
            "patients_unknown": sum(not self._patient(row) for row in rows),
        }
        notes |= {f"{name} unknown": count for name, count in classes.unknown.items()}
        notes |= {f"not_read {what}": count for what, count in not_read.items()}
        self._disjoint = VERIFIED.format("the folder" if self.options["patient_from"] == "folder" else "the CSV")
        if notes["patients_unknown"]:
            self._disjoint = UNVERIFIED
        pairs = list(zip(clips, rows, strict=True))
        if salt is not None:
            names = {clip.id: str(root / row.name) for clip, row in pairs}
            patients = {clip.patient_id: self._patient(row) for clip, row in pairs if self._patient(row)}
            private.write_map(self.private_dir, private.ID_MAP, "path", names)
            private.write_map(self.private_dir, private.PATIENT_MAP, "patient", patients)
        bad = [
            unusable.Bad(clip.name, f"{clip.where}: {files.why_not(row.name, hidden)}")
            for clip, row in pairs
            if row.path is None
        ]
        hint = files.hint([row.name for row in rows if row.path is None], hidden)
        return echo_builder.Listing([clip for clip, row in pairs if row.path is not None], bad, notes, hint)

    @staticmethod
    def read_clip(clip: echo_builder.Clip, frame_size: int) -> dict:
        """Decodes the video, leaves out all but the sector, and brings it to `frame_size`."""
        fields = dict(clip.fields)
        keep_doppler, whole_frame = fields.pop("keep_doppler"), fields.pop("whole_frame")
        try:
            video = at_constant_rate(clip.path, read_video(clip.path))
            alone, flags = isolate_video(video)
        except VideoError:
            raise
        except Exception as error:  # its words could quote the file
            raise VideoError(
                f"{clip.path}: the reader failed with {type(error).__name__}; that may be its own fault."
            ) from None
        if "colour_doppler" in flags and not keep_doppler:
            raise NotAClip(f"{clip.path}: colour Doppler; --keep_doppler takes it in.")
        if whole_frame:
            alone, flags = video, flags & {"colour_doppler", *video.flags}
        frames, placement = letterbox(alone.frames, frame_size, alone.pixel_size)
        if frames is not alone.frames:
            flags.add("resized")
        if math.isnan(fields["fps"]):
            fields["fps"] = video.fps
        return records.make_record(
            frames, id=clip.id, patient_id=clip.patient_id, dataset="echo_folder", flags=sorted(flags),
            pixel_spacing=placement.spacing(alone.pixel_spacing), **fields,
        )  # fmt: skip

    @staticmethod
    def raw_frames(clip: echo_builder.Clip) -> np.ndarray:
        """As the file has them, at the record's rate."""
        return at_constant_rate(clip.path, read_video(clip.path)).frames

    def _generate_splits(self, dl_manager, download_config):
        splits = super()._generate_splits(dl_manager, download_config)
        csv = self._csv_hash(pathlib.Path(dl_manager.manual_dir))
        self.info.metadata.update(disjoint_by_patient=self._disjoint, csv=csv)
        return splits

    def made_otherwise(self, metadata, manual_dir):
        """Also where the CSV is another one: its labels, patients and splits are in the records."""
        reason = super().made_otherwise(metadata, manual_dir)
        if reason or "csv" not in metadata:  # an older version did not keep it
            return reason
        made_with = metadata["csv"]
        if self.options["csv"] is None:
            return "was made with a CSV, and none is given" if made_with else ""
        if made_with is None:
            return "was made without a CSV, and one is given"
        if self._csv_hash(manual_dir) != made_with:
            return "was made with another CSV, or with another --private_dir"
        return ""

    def _csv(self, root: pathlib.Path) -> pathlib.Path | None:
        """The CSV that is given, where it says or in the archive; None if none is."""
        if self.options["csv"] is None:
            return None
        return file_table.locate(self.options["csv"], root)

    def _csv_hash(self, root: pathlib.Path) -> str | None:
        """Of the CSV's content, keyed as ids are; None without one."""
        if (table := self._csv(root)) is None:
            return None
        try:
            content = hashlib.sha256(table.read_bytes()).hexdigest()
        except OSError as error:
            raise tables.SourceError(f"{table}: {error.strerror}.") from None
        return private.salted_id(self._open_salt() or b"", content)

    def _open_salt(self) -> bytes | None:
        """The salt of the ids; None if paths are shown. Refuses to go without one, or to keep it with the records."""
        if self.options["show_paths"]:
            return None
        otherwise = "; or --show_paths if no file's name is private"
        return private_home.open_salt(self.private_dir, self._data_dir_root, otherwise)

    def _patient(self, row: listing.Row) -> str:
        """What the archive says of the patient; empty if nothing."""
        if self.options["patient_from"] == "folder":
            return row.name.rpartition("/")[0]
        return row.patient_id

    def _clip(self, row: listing.Row, salt: bytes | None) -> echo_builder.Clip:
        patient = self._patient(row)
        # The prefix keeps a patient from being called like a file.
        key = f"patient {patient}" if patient else f"file {row.name}"
        name, patient_id = row.name, patient or row.name
        study = row.study_id
        if salt is not None:
            # A header's UID names the study to the hospital: it is read only where it is hashed.
            study = study or (study_of(row.path) if row.path is not None else "")
            name, patient_id = private.salted_id(salt, row.name), private.salted_id(salt, key)
            study = study and private.salted_id(salt, f"study {study}")
        fields = {
            "study_id": study,
            "source_label": row.source_label,
            "ef": row.ef,
            "fps": row.fps,
            "view": row.view,
            "classes": row.classes,
            "keep_doppler": self.options["keep_doppler"],
            "whole_frame": self.options["whole_frame"],
        }
        return echo_builder.Clip(
            name, patient_id, row.split, row.path or pathlib.Path(), row.where, fields, name=name
        )

    def _in_splits(self, clips, rows: list[listing.Row], columns) -> list[echo_builder.Clip]:
        """The clips, each in the split of its row or, where the row has none, of its patient."""
        how, shares = parse_split(self.options["split"])
        seed = self.options["split_seed"]
        if how == HASHED:
            chosen = {clip.patient_id: hashed_split(clip.patient_id, seed, shares) for clip in clips}
        elif any(row.split for row in rows):
            raise tables.SourceError("The CSV has a column split: leave it out for a split that is stratified.")
        else:
            strata = listing.strata(rows, self.options["stratify"], columns)
            videos: dict[str, list] = {}
            for clip, row, stratum in zip(clips, rows, strata, strict=True):
                if row.path is not None:
                    videos.setdefault(clip.patient_id, []).append(stratum)
            chosen = stratified_splits(videos, seed, shares)
        return [dataclasses.replace(clip, split=clip.split or chosen.get(clip.patient_id, "train")) for clip in clips]
