"""The network: masking by gathering, batched views, the decoder's order, sizes, and branches that cost nothing."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from discovr_jax import trees
from discovr_jax.method import experiment as experiment_lib
from discovr_jax.models import positions
from discovr_jax.models.decoder import Decoder
from discovr_jax.models.discovr import ClipGrid
from discovr_jax.models.encoders import Encoder
from discovr_jax.models.patches import PatchEmbed
from discovr_jax.models.readouts import NAMES, cell_weights, over_time, readouts
from discovr_jax.models.transformer import Transformer

F32 = jnp.dtype("float32")


def random_like(tree, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.3, jnp.float32), tree)


def random_params(module, *args):
    return random_like(jax.eval_shape(module.init, jax.random.key(0), *args)["params"])


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def test_gathered_tokens_equal_dropping_tokens_of_the_full_embedding():
    encoder = Encoder(16, 1, 2, 2, 4, "qv", 1e-6, "imagenet", F32)
    tokens = jax.random.uniform(jax.random.key(1), (2, 12, 32)) * 255
    params = random_params(encoder, tokens)
    visible = jnp.array([[0, 3, 7], [1, 2, 11], [4, 5, 6], [8, 9, 10]], jnp.int32)  # two views of two clips
    found = jax.jit(encoder.apply)({"params": params}, tokens, visible)

    @jax.jit
    def dropping(params):
        embed = PatchEmbed(2, 4, 16, "imagenet", F32)
        full = embed.apply({"params": params["patch_embed"]}, tokens) + positions.encoder_positions(12, 16)
        rows = [
            jnp.concatenate([params["cls_token"][0], full[row // 2][visible[row]]]) for row in range(4)
        ]
        transformer = Transformer(1, 2, "qv", 1e-6, F32)
        return transformer.apply({"params": params["transformer"]}, jnp.stack(rows))

    np.testing.assert_allclose(found, dropping(params), atol=1e-5)


@pytest.mark.parametrize("qkv_bias", ["none", "qv"])
def test_a_last_block_of_cls_alone_changes_no_number(qkv_bias):
    transformer = Transformer(2, 2, qkv_bias, 1e-6, F32)
    x = jax.random.normal(jax.random.key(1), (2, 5, 16))
    params = random_params(transformer, x)

    @jax.jit
    def both(params, x):
        def loss(params, x, rows):
            cls = transformer.apply({"params": params}, x, rows)[:, :1]
            return (cls**3).sum(), cls

        return [jax.grad(loss, (0, 1), has_aux=True)(params, x, rows) for rows in (None, 1)]

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), *both(params, x))


def test_batched_views_equal_views_one_by_one(tiny):
    """Views of one count share a call, the others have their own; the order of the views is kept."""
    model, params = tiny.model, tiny.state.params
    tokens = jax.random.uniform(jax.random.key(1), (2, model.grid.tokens, 2 * 8 * 8)) * 255
    rng = np.random.default_rng(0)
    views = tuple(
        jnp.asarray(np.stack([np.sort(rng.permutation(model.grid.tokens)[:size]) for _ in range(2)]), jnp.int32)
        for size in (4, 6, 4)
    )

    @jax.jit
    def both(params):
        def run(module):
            together = module._encode_views(module.video_encoder, tokens, views, module.clip_positions)
            return together, [module.video_encoder(tokens, view) for view in views]

        return model.apply({"params": params}, method=run)

    together, alone = both(params)
    for a, b, view in zip(together, alone, views, strict=True):
        assert a.shape == (2, 1 + view.shape[1], model.width)
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.fixture(scope="module")
def decode():
    """A decoder without blocks, so that an output depends on its own place alone."""
    decoder = Decoder(8, 0, 2, 5, 6, "none", 1e-6, F32)
    encoded = jax.random.normal(jax.random.key(2), (2, 3, 4))
    visible = jnp.array([[0, 2, 5], [1, 3, 4]], jnp.int32)
    params = random_params(decoder, encoded, visible)
    return encoded, visible, jax.jit(lambda tokens, places: decoder.apply({"params": params}, tokens, places))


def test_the_decoder_puts_tokens_in_raster_order(decode):
    encoded, visible, run = decode
    before = np.asarray(run(encoded, visible))
    changed = np.abs(np.asarray(run(encoded.at[0, 1].add(1.0), visible)) - before).max(-1) > 1e-6
    np.testing.assert_array_equal(np.argwhere(changed), [[0, 2]])
    hidden = [(0, 1), (0, 3), (1, 0), (1, 2)]
    assert not any(np.abs(np.asarray(run(encoded + 1, visible)) - before)[place].max() > 1e-6 for place in hidden)


def test_the_decoder_does_not_care_in_which_order_visible_tokens_come(decode):
    encoded, visible, run = decode
    turn = jnp.array([2, 0, 1])
    np.testing.assert_array_equal(run(encoded[:, turn], visible[:, turn]), run(encoded, visible))


def test_clips_do_not_see_each_other(tiny):
    """Permuting the batch permutes the outputs of teachers and students."""
    model, state, batch, masks = tiny.model, tiny.state, tiny.batch, tiny.masks
    turn = np.array([3, 0, 1, 2, 7, 6, 5, 4])
    frames_turn = (turn[:, None] * model.grid.frames + np.arange(model.grid.frames)).reshape(-1)

    @jax.jit
    def run(params, teacher, batch, masks):
        args = batch["frames"], batch["num_valid"]
        seen = model.apply({"params": teacher}, *args, method="teacher")
        return seen, model.apply({"params": params}, *args, masks, method="student")

    seen, student = run(state.params, state.teacher, batch, masks)
    turned = masks.replace(
        decoder_view=masks.decoder_view[turn],
        local_views=tuple(view[turn] for view in masks.local_views),
        image_views=tuple(view[frames_turn] for view in masks.image_views),
    )
    turned_batch = {name: array[turn] for name, array in batch.items()}
    seen_turned, student_turned = run(state.params, state.teacher, turned_batch, turned)
    for name, order in (("video_logits", turn), ("image_logits", frames_turn)):
        np.testing.assert_allclose(getattr(seen_turned, name), getattr(seen, name)[order], atol=1e-5)
        np.testing.assert_allclose(getattr(student_turned, name), getattr(student, name)[order], atol=1e-5)
    np.testing.assert_allclose(seen_turned.image_tokens, seen.image_tokens[turn], atol=1e-5)
    np.testing.assert_allclose(student_turned.decoded, student.decoded[turn], atol=1e-5)


def test_recomputing_changes_no_number_and_stores_less():
    x = jax.random.normal(jax.random.key(3), (2, 5, 8))
    modules = [Transformer(2, 2, "none", 1e-6, F32, remat) for remat in ("none", "dots", "blocks")]
    params = random_params(modules[0], x)
    gradients, stored = [], []
    for module in modules:
        assert jax.tree.structure(params) == jax.tree.structure(random_params(module, x))

        def loss(p, module=module):
            return (module.apply({"params": p}, x) ** 3).sum()

        gradients.append(jax.tree.leaves(jax.jit(jax.grad(loss))(params)))
        backward = jax.eval_shape(lambda p, loss=loss: jax.vjp(loss, p)[1], params)
        stored.append(sum(leaf.size for leaf in jax.tree.leaves(backward)))
    for other in gradients[1:]:
        for a, b in zip(gradients[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert stored[0] > stored[1] > stored[2]
    with pytest.raises(ValueError, match="model.remat must be one of none, blocks, dots, not 'all'"):
        Transformer(2, 2, "none", 1e-6, F32, "all").init(jax.random.key(0), x)


@pytest.mark.parametrize(
    "variant,width,depth,heads,mlp,decoder_heads",
    [
        ("ti", 192, 12, 3, 768, 3),
        ("s", 384, 12, 6, 1536, 3),
        ("b", 768, 12, 12, 3072, 6),
        ("l", 1024, 24, 16, 4096, 8),
        ("h", 1280, 32, 16, 5120, 10),
        ("g", 1408, 40, 16, 6144, 11),
    ],
)
def test_variants(config, variant, width, depth, heads, mlp, decoder_heads):
    config.model.variant, config.model.patch, config.data.image_size = variant, 16, 112
    model = experiment_lib.make_model(config)
    assert (model.width, model.depth, model.heads, model.mlp_dim) == (width, depth, heads, mlp)
    assert (model.decoder_width, model.decoder_heads) == (width // 2, decoder_heads)
    encoder = Encoder(width, depth, heads, 2, 16, "none", 1e-6, "imagenet", F32, mlp_dim=mlp)
    params = jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((1, 49, 512)))["params"]
    block = 4 * width**2 + 2 * width * mlp + 6 * width + mlp  # qkv 3, projection 1, MLP; biases 1 + 1 + MLP, norms 4
    assert count(params) == depth * block + (2 * 16 * 16 * 3 + 1) * width + width + 2 * width


def test_the_papers_encoder_has_86_million_parameters():
    encoder = Encoder(768, 12, 12, 2, 16, "none", 1e-6, "imagenet", F32)
    params = jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((1, 49, 512)))["params"]
    assert count(params) == 86_209_536


PARAMS = {
    "vid": {"video_encoder", "video_head"},
    "img": {"video_encoder", "image_encoder", "image_head"},
    "scd": {"video_encoder", "decoder", "prototypes"},
    "pix": {"video_encoder", "decoder", "pixel_head"},
}
TEACHER = {
    "vid": {"video_encoder", "video_head"},
    "img": {"video_encoder", "image_encoder", "image_head"},
    "scd": {"video_encoder", "image_encoder"},
    "pix": {"video_encoder"},
}


@pytest.mark.parametrize("branch", PARAMS)
def test_a_branch_of_weight_zero_is_not_built_and_not_computed(make_tiny, tiny_lowered, branch):
    one = make_tiny(**{f"loss.{name}": float(name == branch) for name in PARAMS})
    assert one.abstract.params.keys() == PARAMS[branch]
    assert one.abstract.teacher.keys() == TEACHER[branch]
    assert one.abstract.memory.centers.keys() == {branch} & {"vid", "img"}
    flops = jax.jit(one.step).lower(one.state, one.batch).cost_analysis()["flops"]
    assert flops < 0.8 * tiny_lowered.cost_analysis()["flops"]


def test_scd_alone_encodes_one_frame_of_each_tubelet(make_tiny):
    one = make_tiny(**{"loss.vid": 0.0, "loss.img": 0.0})
    grid = one.model.grid
    args = {"params": one.abstract.teacher}, one.batch["frames"], one.batch["num_valid"]
    teacher_outputs = jax.eval_shape(partial(one.model.apply, method="teacher"), *args)
    assert teacher_outputs.image_tokens.shape == (8, grid.time, grid.num_positions, one.model.width)
    reference = make_tiny(**{"loss.vid": 0.0, "loss.img": 0.0, "scd.pairing": "reference"})
    teacher_outputs = jax.eval_shape(partial(reference.model.apply, method="teacher"), *args)
    assert teacher_outputs.image_tokens.shape == (8, grid.frames, grid.num_positions, one.model.width)


def test_half_precision_is_for_activations_only(make_tiny):
    half = make_tiny(**{"model.dtype": "bfloat16"})
    args = {"params": half.abstract.params}, half.batch["frames"], half.batch["num_valid"], half.masks
    found = jax.eval_shape(partial(half.model.apply, method="student"), *args)
    assert found.decoded.dtype == jnp.bfloat16
    assert found.video_logits.dtype == found.image_logits.dtype == found.prototypes.dtype == jnp.float32
    dtypes = {
        trees.path_name(path): leaf.dtype for path, leaf in jax.tree_util.tree_leaves_with_path(half.abstract)
    }
    counters = {"step", "skipped", "count"}
    assert {n for n, dtype in dtypes.items() if dtype != jnp.float32} == {
        n for n in dtypes if n.split("/")[-1] in counters
    }


@pytest.mark.parametrize(
    "overrides,words",
    [
        ({"model.variant": "xl"}, "model.variant must be one of .*, not 'xl'"),
        ({"model.heads": 3}, "model.width = 16 must be a positive multiple of its 3 heads"),
        ({"data.image_size": 30}, "data.image_size = 30 must be a multiple of model.patch = 8"),
        ({"data.num_frames": 5}, "data.num_frames = 5 of model.tubelet = 2"),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_are_refused(config, overrides, words):
    config.update_from_flattened_dict(overrides)
    with pytest.raises(ValueError, match=words):
        experiment_lib.make_model(config)


def test_unknown_head_initialisation_is_refused(make_tiny):
    with pytest.raises(ValueError, match="head.init must be 'normal' or 'fan_in', not 'orthogonal'"):
        _ = make_tiny(**{"head.init": "orthogonal"}).abstract


def test_readouts_by_hand():
    """Two places over three tubelets, the last of them padding."""
    grid = ClipGrid(time=3, rows=1, cols=2, tubelet=2)
    places = jnp.array([[[0.0], [2.0]], [[2.0], [8.0]], [[99.0], [99.0]]])  # [time, places, D]
    tokens = jnp.concatenate([jnp.array([[[7.0]]]), places.reshape(1, 6, 1)], axis=1)
    found = jax.jit(readouts, static_argnums=(2, 3))(tokens, jnp.array([4]), grid, 4)
    assert {name: float(found[name][0, 0]) for name in NAMES} == {
        "cls": 7.0,
        "mean": 3.0,  # frame means 1 and 5
        "std_of_mean": pytest.approx(2.0, rel=1e-5),
        "mean_of_std": pytest.approx(2.0, rel=1e-5),  # 1 and 3
    }
    np.testing.assert_allclose(found["mean_map"], [[1.0, 5.0]])
    np.testing.assert_allclose(found["std_map"], [[1.0, 3.0]], rtol=1e-5)
    by_token = over_time(tokens, jnp.array([4]), grid)[0, :, 0]
    np.testing.assert_allclose(by_token, [7, 1, 5, 1, 3], rtol=1e-5)  # CLS, means, standard deviations
    one_cell = readouts(tokens, jnp.array([4]), grid, 1)
    np.testing.assert_allclose(one_cell["mean_map"], found["mean"])
    np.testing.assert_allclose(one_cell["std_map"], found["mean_of_std"], rtol=1e-6)


def test_cells_of_a_map_share_the_places_between_them():
    np.testing.assert_allclose(cell_weights(3, 2), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]], rtol=1e-6)
    np.testing.assert_array_equal(cell_weights(2, 4), np.eye(2))
