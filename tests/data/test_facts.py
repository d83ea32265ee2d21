"""Facts of the datasets: every builder has them, they name real configs, and reading them imports no builder."""

import importlib
import subprocess
import sys

import pytest

from discovr_jax import prepare
from discovr_jax.data import facts, labels, mixture
from discovr_jax.evaluation import published
from discovr_jax.method import experiment


def test_every_builder_has_facts_and_a_config_that_names_it():
    assert set(facts.known()) == set(prepare.datasets())
    for name, known in facts.known().items():
        assert labels.rule_fields(known.abnormal_rule)
        config = importlib.import_module(f"discovr_jax.configs.{known.config}").get_config()
        assert mixture.scored(config).partition("/")[0] == name
        assert experiment.config_path(f"{name}:frames=16").endswith(f"configs/{known.config}.py:frames=16")


def test_facts_of_a_variant_are_those_of_its_dataset():
    assert facts.of("echonet_pediatric/a4c") is facts.of("echonet_pediatric")
    assert facts.of("mine") is None and facts.of("echonet_dynamic").nominal_fps == 50
    assert (
        published.published_metrics("camus") == {"segmentation/dice": 0.844}
        and published.published_metrics("mine") == {}
    )


@pytest.mark.parametrize("text,words", [("config = ", "Invalid value"), ('config = "a"\nfps = 3', "'fps'")])
def test_a_damaged_file_is_named(tmp_path, monkeypatch, text, words):
    (tmp_path / "tfds_builders" / "mine").mkdir(parents=True)
    (tmp_path / "tfds_builders" / "__init__.py").touch()
    (tmp_path / "tfds_builders" / "mine" / "facts.toml").write_text(text)
    spec = importlib.machinery.PathFinder.find_spec("tfds_builders", [str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ValueError, match=rf"mine.facts.toml: .*{words}"):
        facts.known.__wrapped__()


def test_reading_them_imports_no_builder():
    script = "import sys; from discovr_jax.data import facts; facts.known(); print('tfds_builders' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
