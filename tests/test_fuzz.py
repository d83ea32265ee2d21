"""Hostile files and arguments: each ends in a result or in an error of the project, soon and in bounded memory."""

import pytest

from tests import fuzz, parsers


@pytest.mark.parametrize("parser", parsers.PARSERS, ids=lambda parser: parser.name)
def test_damaged_inputs_end_in_a_result_or_in_an_error_of_ours(parser, tmp_path):
    pytest.importorskip(parser.needs)
    tally = fuzz.run(parser, tmp_path / "files", fuzz.settings(parser.quick, derandomize=True))
    assert not tally.defects, "\n".join(f"{kind}: {words!r:.500}" for kind, (words, *_) in tally.defects.items())
    assert tally.counts["refused"] > parser.quick / 10, tally.counts
