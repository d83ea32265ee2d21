"""The step in PyTorch that ours is timed beside does the same work: its numbers, its parameters, its products."""

import re

import jax
import numpy as np
import pytest

from discovr_jax import trees
from discovr_jax.configs import adult
from discovr_jax.convert import names
from discovr_jax.method import experiment as experiment_lib
from discovr_jax.method import step as train_step
from discovr_jax.planning import flops

torch = pytest.importorskip("torch", reason="the step in PyTorch needs torch (pip install .[torch])")

from tests.torch_step import ours, pairs  # noqa: E402
from tests.torch_step.network import Network  # noqa: E402
from tests.torch_step.step import Step, draw_masks, objective  # noqa: E402

TEMPERATURE, MOMENTUM, LR = 0.04, 0.9, 1e-3


@pytest.fixture(scope="module")
def tiny(make_tiny):
    # As many prototypes and outputs as tell what is transposed; the last clip repeats its last frames.
    return make_tiny(**{"model.depth": 2, "model.num_prototypes": 20, "ema.momentum": (MOMENTUM, 1.0)})


@pytest.fixture(scope="module")
def network(tiny):
    network = Network(ours.sizes_of(tiny.config, tiny.experiment))
    found = network.load_state_dict(ours.state_dict(tiny.state))
    assert not found.missing_keys and not found.unexpected_keys
    return network


def difference(found, expected):
    """Of norms, relative."""
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def test_loss_gradients_and_centres_are_ours(tiny, network):
    e, state = tiny.experiment, tiny.state

    @jax.jit
    def of_ours(state, batch, masks):
        params = train_step.unit_prototypes(state.params)
        gradient = jax.value_and_grad(train_step.losses, argnums=2, has_aux=True)
        return gradient(e.model, e.options, params, state.teacher, state.memory, batch, masks, TEMPERATURE)

    (total, (memory, _)), grads = of_ours(state, tiny.batch, tiny.masks)
    with torch.no_grad():
        network.prototypes.copy_(torch.nn.functional.normalize(network.prototypes, dim=1))
    frames, num_valid = (torch.from_numpy(tiny.batch[name]) for name in ("frames", "num_valid"))
    network.zero_grad()
    found, centers = objective(network, frames, num_valid, ours.masks_of(tiny.masks), TEMPERATURE)
    found.backward()
    assert found.item() == pytest.approx(float(total), rel=1e-5)
    for center, name in zip(centers, ("vid", "img"), strict=True):
        assert difference(center[0].numpy(), np.asarray(memory.centers[name])) < 1e-5
    trained = network.trained()
    for path, expected in jax.tree_util.tree_leaves_with_path({"params": grads}):
        name, expected = names.to_torch(trees.path_name(path), np.asarray(expected))
        assert difference(trained.pop(name).grad.numpy(), expected) < 1e-4, name
    assert not trained


def test_a_step_is_ours(tiny):
    """Parameters, teachers and centres after it, from the same masks."""
    network = Network(ours.sizes_of(tiny.config, tiny.experiment))
    network.load_state_dict(ours.state_dict(tiny.state))
    frames, num_valid = (torch.from_numpy(tiny.batch[name]) for name in ("frames", "num_valid"))
    lr = float(tiny.experiment.schedules.lr(0))
    state, metrics = jax.jit(tiny.step.apply)(tiny.state, tiny.batch, tiny.masks)
    loss = Step(network, lr, TEMPERATURE, MOMENTUM)(frames, num_valid, ours.masks_of(tiny.masks))
    assert loss == pytest.approx(float(metrics["loss/total"]), rel=1e-5)
    before, after, found = ours.state_dict(tiny.state), ours.state_dict(state), network.state_dict()
    assert after.keys() == found.keys()
    for name, expected in after.items():
        assert difference(found[name].numpy(), expected.numpy()) < 1e-4, name
        assert not torch.equal(before[name], expected), name


def test_the_masks_that_it_draws_are_of_our_counts(tiny):
    masks = draw_masks(ours.sizes_of(tiny.config, tiny.experiment), tiny.config.batch_size)
    expected = ours.masks_of(tiny.masks)
    for name in ("decoder_view", "local_views", "image_views"):
        drawn = getattr(masks, name)
        assert drawn.shape == getattr(expected, name).shape and (drawn.diff(dim=-1) > 0).all(), name
    places = masks.local_views.unflatten(-1, (tiny.model.grid.time, -1)) % tiny.model.grid.num_positions
    assert (places == places[:, :, :1]).all()


def test_the_recipe_of_the_paper_is_the_same_work():
    """ViT-Ti, as it is timed: parameters of students and teachers, and products of a step within 2 percent.

    The nominal work embeds every patch of every view, with a gradient by the pixels. Here, as in our step, patches that
    no view sees are not embedded, and pixels have no gradient.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    config = adult.get_config("variant=ti")
    config.model.dtype, config.batch_size, config.data.num_frames = "float32", 1, 8
    e = experiment_lib.make_experiment(config, 100)
    state = jax.eval_shape(lambda key: train_step.init_state(e.model, e.tx, e.masks, key), jax.random.key(0))
    sizes = ours.sizes_of(config, e)
    network = Network(sizes)

    def count(parameters):
        return sum(p.numel() for p in parameters)

    assert count(network.trained().values()) == sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert count(p for p in network.parameters() if not p.requires_grad) == sum(
        leaf.size for leaf in jax.tree.leaves(state.teacher)
    )
    step = Step(network, LR, TEMPERATURE, MOMENTUM)
    frames = torch.zeros((1, 8, config.data.image_size, config.data.image_size), dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step(frames, torch.tensor([8]))
    per_pixel = 2 * 3 * sizes.patch**2 * sizes.width
    video = 2 * per_pixel * 5 * sizes.time * (3 * sizes.positions - 2 * sizes.video_visible)
    image = per_pixel * 4 * 8 * (3 * sizes.positions - 2 * sizes.image_visible)
    nominal = sum(flops.step_flops(e.model, e.masks).values())
    assert counter.get_total_flops() == pytest.approx(nominal - video - image, rel=0.02)


def test_other_recipes_are_refused(make_tiny):
    for key, value in (("loss.jepa", 1.0), ("scd.targets", "hard"), ("gradient_accumulation_steps", 2)):
        tiny = make_tiny(**{key: value})
        with pytest.raises(ValueError, match=re.escape(f"config.{key} = {value!r}: the step in PyTorch")):
            ours.sizes_of(tiny.config, tiny.experiment)


def test_the_command_refuses_other_recipes(capsys):
    assert pairs.main(["--config=adult:variant=ti"]) == 1
    assert "the step in PyTorch is written for 'float32'" in capsys.readouterr().err
