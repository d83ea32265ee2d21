"""Every config with every argument means a run; every key is read by something; typos are errors."""

import ast
import dataclasses
import importlib
import math
import pathlib
import re
import sys
from functools import partial

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from discovr_jax.configs import ablations, base, baselines
from discovr_jax.data import mixture
from discovr_jax.evaluation import interface, runner
from discovr_jax.losses.terms import TERMS, outputs
from discovr_jax.method import experiment as experiment_lib
from discovr_jax.method import fidelity, views
from discovr_jax.method import step as train_step
from discovr_jax.models.discovr import ClipGrid
from discovr_jax.models.variants import VARIANTS
from discovr_jax.runs import workdir

ROOT = pathlib.Path(__file__).parent.parent
RECIPE = {"variant": ("b", *(v for v in VARIANTS if v != "b")), "frames": (64, 16, 32)}
# Each shipped config with values of each of its arguments; the first value is the default.
ARGUMENTS = {
    "adult": RECIPE,
    "pediatric": RECIPE | {"view": ("", "a4c", "psax")},
    "lvh": RECIPE,
    "rvenet": RECIPE,
    "fetal": RECIPE,
    "tmed2": RECIPE,
    "mimic": RECIPE,
    "hmc_qu": RECIPE,
    "segrwma": RECIPE,
    "cardiacnet": RECIPE | {"disease": ("pah", "asd")},
    "camus": RECIPE | {"small": (False, True)},
    "multi": RECIPE | {name: (1.0, 0.0, 2.5) for name in ("adult", "pediatric", "rvenet")}
    | {name: (0.0, 0.5) for name in ("lvh", "camus", "fetal")},
    "archive": {"gigabytes": (8, 16, 24)},
    "phantom": {"smoke": (False, True), "long": (False, True)},
    "baselines": {
        "method": ("discovr", *(m for m in baselines.METHODS if m != "discovr")), "recipe": ("phantom", "adult")
    },
    "ablations": {"trial": ("all", *(t for t in ablations.TRIALS if t != "all")), "steps": (300, 10)},
}


def arguments(name):
    """The arguments to try: none, then every value of every argument alone."""
    return [None] + [f"{arg}={value}" for arg, values in ARGUMENTS[name].items() for value in values[1:]]


def load(name, arg=None):
    return importlib.import_module(f"discovr_jax.configs.{name}").get_config(arg)


CASES = [(name, arg) for name in ARGUMENTS for arg in arguments(name)]


# Loading -----------------------------------------------------------------------------------------------------


def test_every_config_and_argument_is_listed_here_and_in_its_header():
    shipped = {path.stem for path in (ROOT / "configs").glob("*.py")} - {"__init__", "base"}
    assert shipped == ARGUMENTS.keys()
    for name, known in ARGUMENTS.items():
        with pytest.raises(ValueError, match="unknown config argument 'nonsense'; known: ") as error:
            load(name, "nonsense=1")
        listed = str(error.value).partition("known: ")[2]
        assert {part.split()[0] for part in listed.split(", ")} == known.keys()
        header = importlib.import_module(f"discovr_jax.configs.{name}").__doc__
        assert "Command:" in header and "Hardware:" in header and "Arguments:" in header
        (line,) = [line for line in header.splitlines() if line.startswith("Arguments:")]
        assert all(arg in line for arg in known), f"configs/{name}.py does not document its arguments"


NAMED = ("data.mixture.", "eval.evaluators.")  # sections whose keys a config names


def test_keys_are_those_of_base():
    known = {key for key in workdir.flatten(base.get_config().to_dict()) if not key.startswith(NAMED)}
    for name, arg in CASES:
        found = {key for key in workdir.flatten(load(name, arg).to_dict()) if not key.startswith(NAMED)}
        assert found == known, (name, arg)


def test_datasets_and_evaluators_are_known():
    """Each config names datasets that can be prepared, with a rule, and scores one of them by what it measures."""
    measured = {"echonet_lvh": {"ivsd", "lvidd", "lvpwd"}, "rvenet": {"rvef"}}
    for name, arg in CASES:
        config = load(name, arg)
        for dataset in mixture.all_named(config):
            assert dataset.partition("/")[0] in mixture.RULES
            mixture.abnormal_rule(config.data, dataset)
        fields = {e.field for e in config.eval.evaluators.values() if e.get("type") == "regression"}
        assert measured.get(mixture.scored(config), {"ef"}) <= fields
    assert set(mixture.all_named(load("multi"))) == {"echonet_dynamic", "echonet_pediatric", "rvenet"}
    assert mixture.weights(load("multi", "adult=0,rvenet=0,fetal=0.5").data) == {
        "echo_folder": 0.5, "echonet_pediatric": 1.0
    }  # fmt: skip
    with pytest.raises(ValueError, match="view='a5c' must be a4c, psax"):
        load("pediatric", "view=a5c")


def batch_of(config):
    shape = (config.batch_size, config.data.num_frames, config.data.image_size, config.data.image_size)
    return {
        "frames": jax.ShapeDtypeStruct(shape, np.uint8),
        "num_valid": jax.ShapeDtypeStruct(shape[:1], np.int32),
    }


def check_step(config, experiment):
    """One abstract step: nothing is computed, but every shape, dtype and option has to fit."""
    init = partial(train_step.init_state, experiment.model, experiment.tx, experiment.masks)
    state = jax.eval_shape(init, jax.random.key(0))
    after, metrics = jax.eval_shape(experiment_lib.make_train_step(experiment, config), state, batch_of(config))
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert {f"loss/{name}" for name in experiment.options.weights} < metrics.keys()


@pytest.mark.parametrize("name", ["adult", "phantom"])  # the other configs have the model of adult
def test_the_real_step_fits(name):
    config = load(name)
    check_step(config, experiment_lib.make_experiment(config, 7465))


def check_losses(e, batch):
    """Views, masks, forward and losses, abstractly."""

    def run(key, batch):
        batch = views.add_views(key, batch, e.views, e.masks.video_views)
        state = train_step.init_state(e.model, e.tx, e.masks, key)
        masks = train_step.draw_masks(key, e.model, e.masks, batch["frames"].shape[0])
        trees = state.params, state.teacher, state.memory
        return train_step.losses(e.model, e.options, *trees, batch, masks, 0.05, key)

    total, (_, metrics) = jax.eval_shape(run, jax.random.key(0), batch)
    assert total.shape == () and {f"loss/{name}" for name in e.options.weights} < metrics.keys()


def test_every_argument_makes_an_experiment():
    for name, arg in CASES:
        experiment = experiment_lib.make_experiment(load(name, arg), 600)
        assert experiment.total > 0 and experiment.schedules.warmup < experiment.total, (name, arg)


@pytest.mark.long  # the shipped ones are traced above, each term alone in tests/losses
def test_every_argument_means_losses():
    """At a tiny size, for time (sizes are checked when the model is made); equal ones are checked once."""
    size = {"grid": ClipGrid(2, 2, 2, 2), "patch": 4, "width": 8, "depth": 1, "heads": 2, "num_prototypes": 8}
    decoder = {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2}
    head = {"head_hidden": 8, "head_bottleneck": 8, "head_outputs": 8}
    batch = {"frames": jax.ShapeDtypeStruct((2, 4, 8, 8), np.uint8), "num_valid": jax.ShapeDtypeStruct((2,), np.int32)}
    met = set()
    for name, arg in CASES:
        config = load(name, arg)
        experiment = experiment_lib.make_experiment(config, 600)
        own = dict(experiment.options.own)
        if "phase" in own:
            own["phase"] = own["phase"] | {"frames": 2}
        small = dataclasses.replace(
            experiment,
            model=experiment.model.clone(**size, **decoder, **head, phase_frames=2),
            options=dataclasses.replace(experiment.options, own=own),
            views=dataclasses.replace(experiment.views, phase_frames=2 * ("phase" in own), positive="same"),
        )
        masks = dataclasses.replace(small.masks, ratio=0.75, image_ratio=0.75, video_views=2, image_views=2)
        same = re.sub(r"\d+\.\d+", "x", repr((small.model, small.options, masks)))  # numbers change no shape
        if same not in met:
            check_losses(dataclasses.replace(small, masks=masks), batch)
        met.add(same)
    assert len(met) > 10


def test_what_the_arguments_say():
    c = load("adult", "variant=s,frames=16")
    assert (c.model.variant, c.data.num_frames) == ("s", 16)
    assert load("phantom", "smoke").duration == "60 steps"
    assert load("ablations", "trial=scd,steps=10").duration == "10 steps"
    for gigabytes, variant, clips in ((8, "ti", 8), (16, "s", 16), (24, "b", 16)):
        c = load("archive", f"gigabytes={gigabytes}")
        assert (c.model.variant, c.batch_size, c.data.dataset) == (variant, clips, "echo_folder")
    with pytest.raises(ValueError, match="gigabytes=12 must be one of 8, 16, 24"):
        load("archive", "gigabytes=12")


@pytest.mark.parametrize(
    "arg,words",
    [
        ("depth=3", r"unknown config argument 'depth'; known: width \(int\), wide \(bool\), name \(str\)"),
        ("width=b", "width='b' is no int"),
        ("width", "width='' is no int"),
        ("wide=maybe", "wide='maybe' is no bool"),
    ],
)
def test_bad_arguments_are_refused(arg, words):
    with pytest.raises(ValueError, match=words):
        base.parse_arg(arg, width=1, wide=False, name="")


def test_arguments_have_the_types_of_their_defaults():
    args = base.parse_arg("width=3,wide,name=x", width=1, wide=False, name="")
    assert dict(args) == {"width": 3, "wide": True, "name": "x"}
    assert dict(base.parse_arg("wide=false", width=1, wide=True)) == {"width": 1, "wide": False}
    assert dict(base.parse_arg(None, width=1)) == dict(base.parse_arg("", width=1)) == {"width": 1}


# The command line --------------------------------------------------------------------------------------------


ml_collections_is_old = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture
def override(monkeypatch):
    """`override("optim.lr=1e-3")`: the adult config with what --config.KEY=VALUE changes."""

    def run(*changes):
        argv = ["main", f"--config={ROOT / 'configs' / 'adult.py'}", *(f"--config.{text}" for text in changes)]
        monkeypatch.setattr(sys, "argv", argv)
        values = flags.FlagValues()
        config_flags.DEFINE_config_file("config", None, "", flag_values=values)
        values(argv)
        return values.config

    return run


@ml_collections_is_old
def test_keys_without_a_value_can_be_set(override):
    """None by default, so the type must come from a placeholder."""
    found = override(
        "optim.lr=1e-3", "ema.momentum=(0.99, 1.0)", "scd.image_gradient=false",
        "data.target_fps=16", "model.position_grid=(32,7,7)", "optim.warmup=10 percent",
    )  # fmt: skip
    assert (found.optim.lr, found.ema.momentum, found.scd.image_gradient) == (1e-3, (0.99, 1.0), False)
    assert (found.data.target_fps, found.model.position_grid) == (16.0, (32, 7, 7))
    experiment = experiment_lib.make_experiment(found, 7465)
    assert experiment.schedules.peak_lr == 1e-3
    assert experiment.schedules.warmup == round(experiment.total / 10)


@ml_collections_is_old
@pytest.mark.parametrize("change", ["model.widht=3", "modle.width=3", "learning_rate=1"])
def test_an_unknown_key_is_an_error(override, change):
    with pytest.raises((AttributeError, KeyError), match="widht|modle|learning_rate"):
        override(change)


@ml_collections_is_old
def test_a_value_of_another_type_is_an_error(override):
    with pytest.raises(flags.IllegalFlagValueError, match="batch_size"):
        override("batch_size=many")
    with pytest.raises(TypeError):
        load("adult").update_from_flattened_dict({"batch_size": "many"})


# Meaning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key,value,words",
    [
        ("duration", "400", "'400' is no duration"),
        ("duration", "50 percent", "percent needs a total"),
        ("fidelity", "exact", r"config.fidelity must be one of \('paper', 'reference'\), not 'exact'"),
        ("optim.decay", "linear", "optim.decay must be 'cosine' or 'constant', not 'linear'"),
        ("optim.base_lr", None, "set optim.lr .absolute. or optim.base_lr"),
    ],
)
def test_values_that_mean_nothing_are_refused(key, value, words):
    config = load("adult")
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=words):
        experiment_lib.make_experiment(config, 7465)


def test_a_run_without_losses_is_refused():
    config = load("adult")
    for name in TERMS:
        config.loss[name] = 0.0
    with pytest.raises(ValueError, match="every weight in config.loss is 0"):
        experiment_lib.make_experiment(config, 7465)


def test_the_papers_recipe():
    """The numbers of the paper, read off the objects that the run uses."""
    e = experiment_lib.make_experiment(load("adult"), 6400)
    grid, schedules, options, masks = e.model.grid, e.schedules, e.options, e.masks
    assert (grid.tokens, grid.num_positions, grid.frames, e.model.width, e.model.depth) == (1568, 49, 64, 768, 12)
    assert (e.model.head_hidden, e.model.head_bottleneck, e.model.head_outputs) == (2048, 256, 16384)
    assert (e.model.num_prototypes, e.model.decoder_width, e.model.decoder_depth) == (3000, 384, 4)
    assert (e.model.video_qkv_bias, e.model.input_normalisation) == ("none", "imagenet")
    assert e.model.outputs == outputs(("vid", "img", "scd"))
    assert (masks.kind, masks.ratio, masks.video_views, masks.image_views) == ("tube", 0.9, 4, 4)
    assert (schedules.total, schedules.warmup, schedules.peak_lr) == (20_000, 2000, 7.5e-5)
    assert (schedules.ema, schedules.teacher_temperature) == ((0.996, 1.0), (0.04, 0.07))
    assert schedules.teacher_temperature_warmup == 1500
    assert (options.student_temperature, options.scd_temperature, options.scd_epsilon) == (0.1, 0.1, 0.05)
    assert (options.scd_iterations, options.center_momentum, options.centering) == (10, 0.9, "mean")
    assert (options.scd_targets, options.scd_pairing, options.scd_image_gradient) == ("soft", "aligned", True)
    assert options.weights == {"vid": 1.0, "img": 1.0, "scd": 1.0}


def test_fidelity_selects_and_single_options_win():
    config = load("adult")
    for choice, column in (("paper", 0), ("reference", 1)):
        config.fidelity = choice
        for key, values in fidelity.OPTIONS.items():
            assert fidelity.option(config, key) == values[column], key
    config.ema.order, config.scd.image_gradient = "after", True
    assert fidelity.option(config, "ema.order") == "after"
    assert fidelity.option(config, "scd.image_gradient") is True
    plain = experiment_lib.config_dict(config)
    assert plain["dino"]["center_momentum"] == 0.8 and plain["ema"] == {"momentum": [0.99, 0.99], "order": "after"}


def test_fidelity_options_are_the_keys_left_open_in_base():
    flat = workdir.flatten(base.get_config().to_dict())
    text = (ROOT / "configs" / "base.py").read_text(encoding="utf-8")
    for key in fidelity.OPTIONS:
        assert flat[key] is None, f"{key} has a default in configs/base.py: config.fidelity never acts"
        assert f"c.{key} = by_fidelity(" in text
    assert text.count("= by_fidelity(") == len(fidelity.OPTIONS)


@pytest.mark.parametrize("config", ARGUMENTS)
def test_evaluators_take_their_options(config):
    for name, options in load(config).eval.evaluators.items():
        options = dict(options)
        kind, field = options.pop("type", name), options.pop("field", None)
        options.pop("at_end", None)
        assert kind in runner.TYPES + runner.TOKEN_TYPES
        if kind in ("regression", "labels", "retrieval", "transfer"):
            assert field in interface.MEASUREMENTS
        path = ROOT / "discovr_jax" / "evaluation" / "evaluators" / f"{kind}.py"  # importing costs seconds
        body = ast.parse(path.read_text(encoding="utf-8")).body
        functions = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
        taking = functions["run"] if kind in runner.TOKEN_TYPES else functions.get("parts") or functions["evaluate"]
        assert set(options.keys()) <= {arg.arg for arg in taking.args.kwonlyargs}, name


def test_the_prototypes_are_enough():
    """At least 8 for each patch of a frame, unless each place has its own mean taken away."""
    for name, arg in CASES:
        config = load(name, arg)
        if name == "ablations" or config.scd.standardise == "position":
            continue
        assert config.model.num_prototypes >= 8 * math.prod([config.data.image_size // config.model.patch] * 2)
