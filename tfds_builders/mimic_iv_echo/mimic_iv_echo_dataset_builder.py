"""MIMIC-IV-ECHO: whole echocardiogram studies as DICOM, with the ejection fraction of their reports. See README.md."""

import os
import pathlib

import numpy as np

from discovr_jax.data import private, records
from discovr_jax.data.io.video import NotAClip
from tfds_builders import echo_builder, private_home, sector_record, tables, unusable
from tfds_builders.mimic_iv_echo import measured
from tfds_builders.splits import hashed_split

_TABLE = "echo-record-list.csv"
_REMEDY = (
    "Ask for MIMIC-IV-ECHO at https://physionet.org/content/mimic-iv-echo (credentialed access), download its tables "
    f"and as many studies as you want, and point --manual_dir at the folder of {_TABLE} and files/."
)
_SHARES = {"train": 8.0, "val": 1.0, "test": 1.0}


class Builder(echo_builder.EchoBuilder):
    """Builder of `mimic_iv_echo`."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _REMEDY
    RELEASE_NOTES = {records.BUILDER_VERSION: "First release."}
    IS_STUDY = True  # half of a study's files are stills, spectra and colour Doppler: skipped and counted, not bad
    OPTIONS = (
        echo_builder.Option(
            "private_dir", str, None, "where the salt and the names behind the ids are kept", recorded=False
        ),
        echo_builder.Option("split_seed", int, 0, "of the split, 80/10/10 by the hash of subject_id"),
    )

    @property
    def private_dir(self) -> pathlib.Path | None:
        """Where the names are kept."""
        return private_home.of_option(self.options["private_dir"])

    def find_clips(self, manual_dir: pathlib.Path) -> echo_builder.Listing:
        """The files of the table whose study was downloaded, under keyed hashes of their names."""
        salt = private_home.open_salt(self.private_dir, self._data_dir_root)
        root = tables.find_root(manual_dir, _TABLE, _REMEDY)
        rows = tables.read_table(root / _TABLE, ("subject_id", "study_id", "dicom_filepath"))
        fractions, notes = measured.ejection_fractions(root)
        folders: dict[str, set[str]] = {}
        clips, names, people, bad, absent = [], {}, {}, [], set()
        for row in rows:
            name, where = row["dicom_filepath"].strip("/"), row["where"]
            identifier = private.salted_id(salt, name)
            folder, _, file = name.rpartition("/")
            if not folder.endswith(f"/p{row['subject_id']}/s{row['study_id']}") or ".." in folder:
                bad.append(unusable.Bad(identifier, f"{where}: dicom_filepath is not of its subject_id and study_id"))
                continue
            if identifier in names:
                bad.append(unusable.Bad(identifier, f"{where}: the same file again"))
                continue
            if folder not in folders:
                folders[folder] = _files(root / folder)
            if not folders[folder]:
                absent.add(folder)
                notes["files of studies not downloaded"] += 1
                continue
            names[identifier] = name
            if file not in folders[folder]:
                bad.append(unusable.Bad(identifier, f"{where}: no such file, though others of its study are there"))
                continue
            patient = private.salted_id(salt, f"patient {row['subject_id']}")
            people[patient] = row["subject_id"]
            fields = {
                "study_id": private.salted_id(salt, f"study {row['study_id']}"),
                "ef": fractions.get(row["study_id"], np.nan),
            }
            # By the subject itself, not by the keyed hash: the split is the same for all who have the data.
            split = hashed_split(row["subject_id"], self.options["split_seed"], _SHARES)
            clips.append(echo_builder.Clip(identifier, patient, split, root / name, where, fields, name=identifier))
        notes["studies not downloaded"] = len(absent)
        notes["ef unknown"] = sum(np.isnan(clip.fields["ef"]) for clip in clips)
        private.write_map(self.private_dir, private.ID_MAP, "path", names)
        private.write_map(self.private_dir, private.PATIENT_MAP, "patient", people)
        return echo_builder.Listing(clips, bad, {key: int(count) for key, count in notes.items()})

    @staticmethod
    def read_clip(clip: echo_builder.Clip, frame_size: int) -> dict:
        """Its sector alone; colour Doppler is no clip."""
        record = sector_record.read(clip, frame_size, "mimic_iv_echo")
        if "colour_doppler" in record["flags"]:
            raise NotAClip(f"{clip.path}: colour Doppler.")
        return record

    @staticmethod
    def raw_frames(clip: echo_builder.Clip) -> np.ndarray:
        """As the file has them, at the record's rate."""
        return sector_record.at_file_rate(clip).frames


def _files(folder: pathlib.Path) -> set[str]:
    """Names in the folder of a study; none if it is absent. One look a study: half a million files would take long."""
    return set(os.listdir(folder)) if folder.is_dir() else set()
