"""Eight CPU devices, runtime shape checks, and one tiny experiment that the tests share."""

# ruff: noqa: E402 (the flags and the import hook come before the imports that they act on)
import atexit
import os
import shutil
import tempfile

from tests import xla_flags

# Before jax is imported.
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        xla_flags.compiled_fast(),
        # Eight devices share the machine's cores with whatever else runs. Where one of them gets no time for 40 s
        # the backend ends the process, without a word and with exit code 1.
        "--xla_cpu_collective_call_terminate_timeout_seconds=300",
    )
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Before NumPy is imported. Matrices of tests are small: threads of linear algebra would wait more than they work.
os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
# A program is compiled once for all tests, workers and processes that they start: the first process makes the folder.
if "DISCOVR_TESTS_PROGRAMS" not in os.environ:
    os.environ["DISCOVR_TESTS_PROGRAMS"] = tempfile.mkdtemp(prefix="discovr-tests-")
    atexit.register(shutil.rmtree, os.environ["DISCOVR_TESTS_PROGRAMS"], ignore_errors=True)
os.environ |= xla_flags.programs_shared()

import dataclasses
import gc
import pathlib
from functools import cached_property, partial
from typing import Any

import jax
import jaxtyping
import numpy as np
import pytest

# Shapes and dtypes of the public functions are checked in tests only. (Not of what composes the terms: its
# dataclasses are pytrees, which hold shardings as well as arrays.)
LOSSES = pathlib.Path(__file__).parent.parent / "discovr_jax" / "losses"
TYPED = {path.stem for path in LOSSES.glob("[a-z]*.py")} - {"interface", "objective", "terms"}
jaxtyping.install_import_hook(
    [
        *(f"discovr_jax.losses.{name}" for name in sorted(TYPED)),
        "discovr_jax.method.masking",
        "discovr_jax.method.views",
        "discovr_jax.models.patches",
        "discovr_jax.models.positions",
    ],
    "typeguard.typechecked",
)

from discovr_jax import trees
from discovr_jax.configs import base
from discovr_jax.method import experiment as experiment_lib
from discovr_jax.method import step as train_step
from discovr_jax.parallel import mesh as mesh_lib

# Tracing makes millions of objects; looking through all of them for cycles took a sixth of the tests' time.
gc.freeze()
gc.set_threshold(100_000, 20, 50)

NUM_TRAIN = 80  # clips of the pretended training split: an epoch is 10 steps


def tiny_config():
    """The base config shrunk: 4 frames of 32 x 32 in patches of 8, width 16, one block."""
    c = base.get_config()
    c.batch_size = 8
    c.duration = "20 steps"
    c.data.image_size, c.data.num_frames = 32, 4
    c.model.variant = "custom"
    c.model.width, c.model.depth, c.model.heads = 16, 1, 2
    c.model.decoder_width, c.model.decoder_depth, c.model.decoder_heads = 16, 1, 2
    c.model.patch = 8
    c.model.dtype = "float32"
    c.model.num_prototypes = 16
    c.head.hidden, c.head.bottleneck, c.head.outputs = 32, 16, 32
    c.mask.ratio = c.mask.image_ratio = 0.75
    c.mask.video_views = c.mask.image_views = 2
    c.dino.teacher_temperature_warmup = "10 steps"
    c.ema.momentum = (0.9, 1.0)
    c.optim.lr = 1e-2
    c.optim.warmup = "4 steps"
    return c


@dataclasses.dataclass(frozen=True, repr=False)
class Tiny:
    """A config and what it means, with a random state, batch and masks; NumPy, so that little is compiled."""

    config: Any

    @cached_property
    def experiment(self):
        return experiment_lib.make_experiment(self.config, NUM_TRAIN)

    @property
    def model(self):
        return self.experiment.model

    @cached_property
    def abstract(self):
        """Shapes and dtypes of the state."""
        e = self.experiment
        return jax.eval_shape(partial(train_step.init_state, e.model, e.tx, e.masks), jax.random.key(0))

    @cached_property
    def state(self):
        """Random parameters, teachers and memory; fresh optimizer."""
        rng = np.random.default_rng(1)

        def fill(path, leaf):
            name = trees.path_name(path)
            if not name.startswith(("params", "teacher", "memory")):
                return np.zeros(leaf.shape, leaf.dtype)
            spread = leaf.shape[0] ** -0.5 if leaf.ndim > 1 else 0.1
            return (rng.normal(size=leaf.shape) * spread + name.endswith("scale")).astype(leaf.dtype)

        return jax.tree_util.tree_map_with_path(fill, self.abstract)

    @cached_property
    def batch(self):
        """Smooth random clips; the last one has two real frames."""
        c, rng = self.config, np.random.default_rng(2)
        size = c.data.image_size
        frames = rng.integers(0, 256, (c.batch_size, c.data.num_frames, size, size)).astype(np.uint8)
        num_valid = np.full(c.batch_size, c.data.num_frames, np.int32)
        num_valid[-1] = 2
        return {"frames": frames, "num_valid": num_valid}

    @cached_property
    def masks(self):
        e = self.experiment
        draw = partial(train_step.draw_masks, model=e.model, options=e.masks, batch=self.config.batch_size)
        return jax.device_get(jax.jit(draw)(jax.random.key(3)))

    @cached_property
    def step(self):
        """The pure step, not jitted."""
        return experiment_lib.make_train_step(self.experiment, self.config)


@pytest.fixture
def config():
    """A fresh tiny config."""
    return tiny_config()


@pytest.fixture(scope="session")
def tiny():
    """The tiny experiment: DISCOVR's three branches."""
    return Tiny(tiny_config())


@pytest.fixture(scope="session")
def make_tiny():
    """`make_tiny(**{"loss.vid": 0.0})` -> a tiny experiment with overrides."""

    def make(**overrides):
        config = tiny_config()
        config.update_from_flattened_dict(overrides)
        return Tiny(config)

    return make


@pytest.fixture(scope="session")
def make_mesh():
    """`make_mesh(data, fsdp, model)` on the first devices."""

    def make(*shape):
        devices = jax.devices()[: int(np.prod(shape))]
        return mesh_lib.make_mesh(dict(zip(mesh_lib.AXES, shape, strict=True)) | {"slices": 1}, devices)

    return make


@pytest.fixture(scope="session")
def mesh8(make_mesh):
    """Eight devices, all on the data axis."""
    return make_mesh(8, 1, 1)


@pytest.fixture(scope="session")
def tiny_lowered(tiny):
    """The tiny experiment's step, traced once."""
    return jax.jit(tiny.step).lower(tiny.state, tiny.batch)


@pytest.fixture(scope="session")
def tiny_step(tiny_lowered):
    """The tiny experiment's step, compiled once on one device: (state, batch) -> (state, metrics)."""
    return tiny_lowered.compile()
