"""Records made through Apache Beam; runs where the extra "beam" is installed (docs/data.md)."""

import csv
import sys

import pytest

from discovr_jax.data import audit
from tests import made_up
from tests.made_up import clip
from tfds_builders.tables import SourceError

pytest.importorskip("apache_beam", reason="the extra 'beam' is not installed: it holds protobuf and pyarrow back")
pytestmark = pytest.mark.filterwarnings("default")  # Beam's own


@pytest.fixture
def options():
    from apache_beam.options.pipeline_options import PipelineOptions

    return PipelineOptions(["--runner=DirectRunner"])


def test_beam_writes_the_same_records(tmp_path, options):
    plain = made_up.build(tmp_path / "plain", made_up.sound())
    beam = made_up.build(tmp_path / "beam", made_up.sound(), beam_options=options)
    names = sorted(path.name for path in plain.iterdir())
    assert names == sorted(path.name for path in beam.iterdir())
    assert [name for name in names if (plain / name).read_bytes() != (beam / name).read_bytes()] == []
    assert audit.check(beam) == [] and "tensorflow" not in sys.modules


def test_beam_lists_what_it_could_not_read(tmp_path, options):
    clips = made_up.sound(clip("e", "train", broken="cut off"))
    path = made_up.build(tmp_path / "one", clips, beam_options=options, max_bad=1)
    with (path / "quarantine.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"file": "e.avi", "reason": "row e: /made/up/e.avi: cut off."}]
    with pytest.raises(SourceError, match="1 unusable video.s., 0 allowed"):
        made_up.build(tmp_path / "none", clips, beam_options=options)
    assert not list((tmp_path / "none").rglob("*.array_record*"))
