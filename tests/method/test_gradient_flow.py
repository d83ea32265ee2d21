"""Which loss moves which parameters."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from discovr_jax.losses import interface, scd
from discovr_jax.method import step as train_step

VIDEO = {"video_encoder", "video_head"}
IMAGE = {"image_encoder", "image_head"}
CLUSTERS = {"video_encoder", "decoder", "prototypes"}


@pytest.fixture(scope="module")
def moved_by(tiny):
    """`moved_by(vid, img, scd)`: (modules of the student, of the teacher, memory) that weights of the losses move."""
    model, options, state = tiny.model, tiny.experiment.options, tiny.state

    @jax.jit
    def gradient(weights, batch, masks):
        chosen = dataclasses.replace(options, weights=weights)

        def loss(params, teacher, memory):
            params = train_step.unit_prototypes(params)
            return train_step.losses(model, chosen, params, teacher, memory, batch, masks, 0.05)[0]

        return jax.grad(loss, argnums=(0, 1, 2))(state.params, state.teacher, state.memory)

    def modules(tree):
        return {name for name, part in tree.items() if any(np.any(leaf) for leaf in jax.tree.leaves(part))}

    def run(vid, img, scd):
        student, teacher, memory = gradient({"vid": vid, "img": img, "scd": scd}, tiny.batch, tiny.masks)
        return modules(student), modules(teacher), any(np.any(leaf) for leaf in jax.tree.leaves(memory))

    return run


@pytest.mark.parametrize(
    "weights,expected",
    [((1.0, 0.0, 0.0), VIDEO), ((0.0, 1.0, 0.0), IMAGE), ((0.0, 0.0, 1.0), CLUSTERS)],
    ids=["vid", "img", "scd"],
)
def test_each_loss_moves_its_modules(moved_by, weights, expected):
    """In particular SCD reaches neither image encoder nor heads. Teachers and memory get no gradient from any."""
    assert moved_by(*weights) == (expected, set(), False)


def test_every_parameter_of_the_student_gets_a_gradient(tiny, moved_by):
    assert moved_by(1.0, 1.0, 1.0)[0] == tiny.state.params.keys()


@pytest.fixture(scope="module")
def scd_gradient(tiny):
    """Gradient of L_scd in (decoded tokens, image teacher tokens, prototypes), `image_gradient` given."""
    rng = np.random.default_rng(0)
    model, options = tiny.model, tiny.experiment.options
    decoded = rng.normal(size=(2, model.grid.tokens, model.width)).astype(np.float32)
    image_tokens = rng.normal(size=(2, model.grid.frames, model.grid.num_positions, model.width)).astype(np.float32)
    prototypes = tiny.state.params["prototypes"]["vectors"]

    def run(image_gradient, cut_video=False):
        chosen = dataclasses.replace(options, scd_image_gradient=image_gradient)

        @jax.jit
        def gradient(decoded, image_tokens, prototypes):
            def loss(decoded, image_tokens, prototypes):
                decoded = jax.lax.stop_gradient(decoded) if cut_video else decoded
                student = SimpleNamespace(decoded=decoded, prototypes=prototypes)
                teacher = SimpleNamespace(image_tokens=image_tokens)
                memory = interface.LossState({}, jnp.zeros((model.grid.num_positions, model.width)))
                batch = interface.Batch(None, model.grid.frames, None, None, None, None)
                total, terms = scd.scd_loss(chosen, student, teacher, memory, batch)
                return terms["scd/image_scores"] if cut_video else total

            return jax.grad(loss, argnums=(0, 1, 2))(decoded, image_tokens, prototypes)

        return gradient(decoded, image_tokens, prototypes)

    return run


def test_both_sides_move_the_prototypes(scd_gradient):
    """The paper's loss: the image scores' term alone moves the prototypes too, and never the image tokens."""
    decoded, image_tokens, prototypes = scd_gradient(True, cut_video=True)
    assert np.any(prototypes) and not np.any(decoded) and not np.any(image_tokens)


def test_only_the_video_side_moves_them_without_image_gradient(scd_gradient):
    _, _, alone = scd_gradient(False, cut_video=True)
    assert not np.any(alone)
    decoded, image_tokens, prototypes = scd_gradient(False)
    assert np.any(decoded) and np.any(prototypes) and not np.any(image_tokens)
