"""Columns of an evaluation, read from records."""

import ml_collections
import numpy as np

from discovr_jax.data import audit
from discovr_jax.evaluation.features import extract
from tests import made_up
from tests.made_up import clip


def test_views_of_the_records_are_a_target(tmp_path):
    """Unless all records are of one view: then there is nothing to tell apart."""
    clips = [clip("a", "train", view="A2C"), clip("b", "train"), clip("c", "val"), clip("d", "test", view="PSAX")]
    config = ml_collections.ConfigDict({"data": {"abnormal_rule": "ef < 50"}})
    fields = extract.read_fields(audit.open_all(made_up.build(tmp_path / "two", clips)), config, "made_up")
    assert sorted(fields["train"]["classes:view"]) == [0, 1] and fields["test"]["classes:view"].tolist() == [2]
    assert set(fields["train"]["classes"]) == {'{"view":"A2C"}', '{"view":"A4C"}'}
    fields = extract.read_fields(audit.open_all(made_up.build(tmp_path / "one", made_up.sound())), config, "made_up")
    assert "classes:view" not in fields["train"] and set(fields["train"]["classes"]) == {""}
    assert np.array_equal(fields["train"]["label"], [0, 0])


def test_what_describes_the_patient_is_no_target(tmp_path):
    """Where the dataset's facts say so; a column of an archive's own table stays one, whatever its name."""
    texts = ['{"sex":"female","view":"A2C"}', '{"sex":"male","view":"A4C"}', '{"view":"A4C"}']
    splits = ("train", "test", "val")
    clips = [clip(split[:2], split, classes=text) for split, text in zip(splits, texts, strict=True)]
    sources = audit.open_all(made_up.build(tmp_path, clips))
    config = ml_collections.ConfigDict({"data": {"abnormal_rule": "ef < 50"}})
    fields = extract.read_fields(sources, config, "camus")
    assert fields["train"]["classes"].tolist() == ['{"view":"A2C"}']
    assert [fields[split]["described"].tolist() for split in splits] == [
        ['{"sex":"female"}'], ['{"sex":"male"}'], [""]
    ]  # fmt: skip
    for own in ("echo_folder", "made_up"):
        fields = extract.read_fields(sources, config, own)
        assert fields["train"]["classes"].tolist() == texts[:1] and "described" not in fields["train"]
    assert "described" not in extract.read_fields(
        audit.open_all(made_up.build(tmp_path / "older", made_up.sound())), config, "camus"
    )["train"]  # fmt: skip
