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
