"""The phantom as a laboratory's folder, from its files to records: the sector is known, so it can be measured."""

import csv

import numpy as np

from discovr_jax import prepare
from discovr_jax.data import audit, records
from discovr_jax.data.read import read_video
from discovr_jax.data.sector import find_sector
from tfds_builders.echo_phantom import layouts


def test_the_phantom_becomes_records_of_its_sector(tmp_path):
    native = layouts.write("echo_folder", tmp_path / "native", {"train": 2}, seed=1, workers=1)
    with open(native / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["Path"].rpartition(".")[2] for row in rows} == {"avi", "mp4", "dcm"}
    for row in rows:
        video = read_video(native / row["Path"])
        truth = np.load(native / ".truth" / f"{row['Path'].replace('/', '_')}.npz")
        sector, heart = truth["sector"] > 0, (truth["masks"] > 0).any(0)
        found = find_sector(video.frames, video.colour).mask
        # What may be missed are black corners: nearly none of the echo, and nothing of the heart.
        assert video.frames[:, sector & ~found].sum() < 1e-3 * video.frames[:, sector].sum()
        assert found[heart & sector].all()
        assert (found & sector).sum() / sector.sum() > 0.95
        assert (found & sector).sum() / (found | sector).sum() > 0.85
    prepare.build(
        "echo_folder", native, tmp_path / "data", csv=str(native / "labels.csv"), private_dir=str(tmp_path / "private")
    )
    directory = records.records_dir(tmp_path / "data", "echo_folder", "112")
    assert audit.check(directory) == []
    source = audit.open_all(directory)["train"]
    fields = records.record_fields(source, ["ef", "view", "source_label", "patient_id"])
    assert sorted(fields["view"]) == sorted(row["view"] for row in rows)
    np.testing.assert_allclose(sorted(fields["ef"]), sorted(float(row["ef"]) for row in rows), rtol=1e-6)
    assert [label == 1 for label in fields["source_label"]] == [ef < 50 for ef in fields["ef"]]
    assert len(set(fields["patient_id"])) == 2
    assert all("sector_isolated" in source[index]["flags"] for index in range(len(source)))
