"""The check against the public code's numbers: it passes, and it fails for whatever is one per cent off."""

import json
import pathlib

import numpy as np
import pytest

from discovr_jax.convert import __main__ as convert
from discovr_jax.convert import check

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "reference_step.npz"
ARRAYS = dict(np.load(GOLDEN))


@pytest.fixture(scope="module")
def ours():
    """Our values for the golden file."""
    return check.golden_outputs(check.read_golden(GOLDEN))


def scaled(*names):
    """The golden file with these arrays times 1.01."""
    arrays = dict(ARRAYS)
    for name in names:
        arrays[name] = np.rint(arrays[name] * 1.01).astype(np.int8) if "int8" in name else arrays[name] * 1.01
    return check.Golden(GOLDEN, arrays)


def failed(values, golden):
    rows = check.compare_outputs(values, golden)
    return [row.quantity for row in rows if not row.passed and "not understood" not in row.quantity]


def test_check_passes_and_says_so(ours, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check, "golden_outputs", lambda golden: [golden.below(""), ours][1])
    arguments = ["check", f"--golden={GOLDEN}", f"--json={tmp_path / 'rows.json'}"]
    assert convert.main(arguments) == 0
    out = capsys.readouterr().out
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert f"{len(rows)} of {len(rows)} pass, 0 fail" in out and len(rows) > 300
    assert all(row["passed"] and row["error"] <= row["tolerance"] for row in rows)
    wrong = dict(ours) | {"out/image_center_after": ours["out/image_center_after"] * 1.01}
    monkeypatch.setattr(check, "golden_outputs", lambda golden: [golden.below(""), wrong][1])
    assert convert.main(arguments) == 1
    assert "out/image_center_after" in capsys.readouterr().out


def test_check_notices_every_number_that_is_compared(ours):
    names = [
        name
        for name in ARRAYS
        if name.startswith(("out/", "grad", "traj/final", "sinkhorn")) and not name.endswith("/scores")
        or name.endswith(("_loss", "_scores"))
    ]
    assert len(names) > 290
    # One comparison per bit of a number's place in the list: each is wrong in other ones, and fails in just these.
    for bit in range(len(names).bit_length()):
        wrong = [name for place, name in enumerate(names, start=1) if place >> bit & 1]
        assert sorted(failed(ours, scaled(*wrong))) == sorted(wrong)


@pytest.mark.parametrize("name", ["state/image_teacher.blocks.1.attn.qkv.weight", "video_int8"])
def test_check_notices_other_inputs(name, ours, monkeypatch):
    monkeypatch.setattr(check, "_trajectory", lambda *_: {})  # the single step shows it, in half the time
    golden = scaled(name)
    assert failed(check.golden_outputs(golden), golden)


def test_check_refuses_what_is_no_golden_file(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", x=np.ones(3))
    (tmp_path / "b.npz").write_bytes(b"no file")
    np.savez(tmp_path / "c.npz", x=np.array([{}], object))
    for name in "abc":
        assert convert.main(["check", f"--golden={tmp_path / name}.npz"]) == 1
        assert f"{name}.npz" in capsys.readouterr().err


def test_an_array_that_nothing_compares_fails(ours):
    golden = check.Golden(GOLDEN, ARRAYS)
    golden.unread = {"out/new"}
    assert [row.quantity for row in check.compare_outputs(ours, golden) if not row.passed] == [
        "out/new (not understood)"
    ]


def test_ties_have_no_right_label():
    reference = np.array([[0.4, 0.4, 0.2], [0.5, 0.3, 0.2]])
    assert check.label_error(np.array([[0.1, 0.9, 0.0], [0.9, 0.1, 0.0]]), reference) == 0
    assert check.label_error(np.array([[0.1, 0.9, 0.0], [0.1, 0.9, 0.0]]), reference) == 0.5
