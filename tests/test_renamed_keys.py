"""Old names of config keys: on the command line, in a config file, and in saved configs."""

import logging
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from discovr_jax import command_line, renamed_keys
from discovr_jax.configs import base, baselines
from discovr_jax.runs import workdir


@pytest.fixture(autouse=True)
def tables(monkeypatch):
    """Other names than the shipped ones: keys of one section and of the top, and a value."""
    monkeypatch.setattr(renamed_keys, "KEYS", {"speed": "optim.lr", "optim.floor": "optim.min_lr"})
    monkeypatch.setattr(renamed_keys, "VALUES", {"loss.kind": {"plain": "simple"}})


def test_a_saved_config_gets_todays_names_without_a_word(caplog):
    saved = {"speed": 2.0, "optim": {"floor": 0.5}, "loss": {"kind": "plain"}}
    assert renamed_keys.current(saved) == {"optim": {"lr": 2.0, "min_lr": 0.5}, "loss": {"kind": "simple"}}
    assert saved["speed"] == 2.0 and "floor" in saved["optim"] and not caplog.records
    assert renamed_keys.current({"optim": {"b1": 0.9}}) == {"optim": {"b1": 0.9}}
    # A section's name as a key elsewhere, and a damaged file.
    for other in ({"eval": {"optim": 3, "speed": 1}}, {"optim": 3}):
        assert renamed_keys.current(other) == other


def test_a_config_file_with_an_old_name_is_read_with_one_warning(caplog):
    config = base.get_config()
    config.speed, config.loss.kind = 2.0, "plain"
    config.lock()
    with caplog.at_level(logging.WARNING):
        renamed_keys.update(config)
    assert config.optim.lr == 2.0 and "speed" not in config and config.loss.kind == "simple" and config.is_locked
    assert [r.getMessage().partition(";")[0] for r in caplog.records] == [
        "config: speed is called optim.lr now", "config: loss.kind=plain is called loss.kind=simple now"
    ]  # fmt: skip


def test_old_names_on_the_command_line(caplog):
    given = ["main", "--config=adult", "--config.speed=0.1", "--config.optim.floor", "2", "--workdir=--config.speed=1"]
    with caplog.at_level(logging.WARNING):
        found = renamed_keys.flags(given)
    assert found == [
        "main", "--config=adult", "--config.optim.lr=0.1", "--config.optim.min_lr", "2", "--workdir=--config.speed=1"
    ]  # fmt: skip
    assert len(caplog.records) == 2


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_an_old_name_overrides_the_key_of_today(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main"])
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    command_line.parse_flags(["main", "--config=adult", "--config.speed=0.125"], values)
    assert values["config"].value.optim.lr == 0.125


def test_a_run_of_an_earlier_version_differs_in_no_key():
    before, now = {"speed": 1.0, "optim": {"b1": 0.9}}, {"optim": {"b1": 0.9, "lr": 1.0}}
    assert workdir.differences(before, now) == []
    assert workdir.differences(before, {"optim": {"b1": 0.9, "lr": 3.0}}) == ["optim.lr: was 1.0, is 3.0"]


def test_shipped_names_are_of_keys_that_exist(monkeypatch):
    monkeypatch.undo()
    known = workdir.flatten(base.get_config().to_dict())
    assert set(renamed_keys.KEYS.values()) | set(renamed_keys.VALUES) <= known.keys()
    assert not set(renamed_keys.KEYS) & known.keys()


def test_options_of_evaluators_are_renamed_by_their_type(monkeypatch, caplog):
    monkeypatch.undo()
    now = base.get_config().to_dict()
    before = base.get_config().to_dict()
    named = {}
    for evaluator, options in before["eval"]["evaluators"].items():
        for old, new in renamed_keys.OPTIONS.get(options.get("type", evaluator), {}).items():
            *section, last = new.split(".")
            holder = options[section[0]] if section else options
            holder[old.split(".")[-1]] = holder.pop(last)
            named[f"eval.evaluators.{evaluator}.{old}"] = f"eval.evaluators.{evaluator}.{new}"
    assert len(named) == 10 and before != now  # the shipped evaluators have every option of the table
    assert renamed_keys.current(before) == now and not caplog.records
    given, expected = ([f"--config.{key}=1" for key in keys] for keys in (named, named.values()))
    with caplog.at_level(logging.WARNING):
        assert renamed_keys.flags([*given, "--config.eval.evaluators.knn.k=3"]) == [
            *expected, "--config.eval.evaluators.knn.k=3"
        ]  # fmt: skip
    assert len(caplog.records) == 10
    # One whose name says nothing of its type, and a damaged file.
    own = {"eval": {"evaluators": {"rvef": {"type": "regression", "strengths": (1.0,)}}}}
    assert renamed_keys.current(own) == {"eval": {"evaluators": {"rvef": {"type": "regression", "alphas": (1.0,)}}}}
    for other in ({"eval": 1}, {"eval": {"evaluators": 1}}, {"eval": {"evaluators": {"probe": 1}}}):
        assert renamed_keys.current(other) == other


def test_the_reference_implementations_old_name(monkeypatch, caplog):
    monkeypatch.undo()
    config = baselines.get_config("method=released_pairing")
    assert config.scd.pairing == "reference" and "reference_pairing" in caplog.text
    config.scd.pairing = config.fidelity = "released"
    renamed_keys.update(config)
    assert config.scd.pairing == config.fidelity == "reference" and len(caplog.records) == 3
