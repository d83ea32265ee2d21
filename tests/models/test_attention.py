"""Every implementation of attention gives the same values and gradients, whatever its tiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from discovr_jax.method import experiment
from discovr_jax.models import attention

# Of two clips, three heads and ten tokens the scores are 2400 bytes, those of one pair 400.
ONE_TILE, TWO_PAIRS, ONE_PAIR, FOUR_ROWS = 2400, 800, 400, 160
SHAPE = (2, 10, 3, 4)


def inputs():
    return jax.random.normal(jax.random.key(0), (3, *SHAPE))


def value_and_gradients(implementation):
    """[4, ...]: the output, and the gradients of a loss that weighs every element differently."""
    weights = jnp.cos(jnp.arange(np.prod(SHAPE), dtype=jnp.float32)).reshape(SHAPE)

    @jax.jit
    def run(q, k, v):
        out, pull = jax.vjp(implementation, q, k, v)
        return jnp.stack([out, *pull(weights)])

    return run(*inputs())


def test_softmax_by_hand():
    # One query against two keys: scores 2 * 4 ** -0.5 * (ln 3, 0) = (ln 3, 0), weights (3/4, 1/4).
    q = jnp.zeros((1, 1, 1, 4)).at[..., 0].set(2.0)
    k = jnp.zeros((1, 2, 1, 4)).at[0, 0, 0, 0].set(np.log(3.0))
    v = jnp.array([[4.0, 0.0, 8.0, 0.0], [0.0, 4.0, 8.0, 0.0]]).reshape(1, 2, 1, 4)
    for implementation in attention.IMPLEMENTATIONS.values():
        np.testing.assert_allclose(implementation(q, k, v)[0, 0, 0], [3.0, 1.0, 8.0, 0.0], rtol=1e-6)


def test_weights_by_hand():
    # The scores of the test above; the second head asks nothing and gets equal weights.
    q = jnp.zeros((1, 1, 2, 4)).at[0, 0, 0].set(2.0)
    k = jnp.zeros((1, 2, 2, 4)).at[0, 0, :, 0].set(np.log(3.0))
    np.testing.assert_allclose(attention.weights(q, k)[0, :, 0], [[0.75, 0.25], [0.5, 0.5]], rtol=1e-6)


@pytest.mark.parametrize(
    "whole_bytes,tile_bytes", [(ONE_TILE, 1), (0, ONE_TILE), (0, TWO_PAIRS), (0, ONE_PAIR), (0, FOUR_ROWS)]
)
def test_tiles_change_nothing(monkeypatch, whole_bytes, tile_bytes):
    monkeypatch.setattr(attention, "WHOLE_BYTES", whole_bytes)
    monkeypatch.setattr(attention, "TILE_BYTES", tile_bytes)
    np.testing.assert_allclose(
        value_and_gradients(attention.memory_efficient), value_and_gradients(attention.reference), atol=1e-5
    )


@pytest.mark.parametrize("tile_bytes,shape", [(TWO_PAIRS, (2, 10, 10)), (FOUR_ROWS, (4, 10))])
def test_no_scores_beyond_a_tile(monkeypatch, tile_bytes, shape):
    """Every softmax of the program is of one tile: two pairs of ten queries, or four queries of one pair."""
    monkeypatch.setattr(attention, "WHOLE_BYTES", 0)
    monkeypatch.setattr(attention, "TILE_BYTES", tile_bytes)
    program = str(jax.make_jaxpr(lambda *qkv: attention.memory_efficient(*qkv))(*inputs()))
    assert f"f32[{','.join(map(str, shape))}] = exp" in program
    assert program.count("= exp") == 1


@pytest.mark.parametrize(
    "name,tile_bytes", [("reference", None), ("memory_efficient", 2**16), ("memory_efficient", 2**12)]
)
def test_scores_of_16_bits_are_not_rounded_before_the_softmax(monkeypatch, name, tile_bytes):
    """Against float32 on the same numbers, in parts of the norm: scores of deviation 9 would cost 1.2 to 2.3 %."""
    if tile_bytes:
        monkeypatch.setattr(attention, "WHOLE_BYTES", 0)
        monkeypatch.setattr(attention, "TILE_BYTES", tile_bytes)
    exact = jax.random.normal(jax.random.key(0), (3, 1, 65, 2, 64)) * jnp.array([3.0, 3, 1]).reshape(3, 1, 1, 1, 1)
    rounded = exact.astype("bfloat16")
    by = jnp.cos(jnp.arange(rounded[0].size)).reshape(rounded[0].shape).astype("bfloat16")

    def value_and_gradients(implementation, qkv):
        out, pull = jax.vjp(implementation, *qkv)
        return [x.astype(jnp.float32) for x in (out, *pull(by.astype(out.dtype)))]

    found = value_and_gradients(attention.IMPLEMENTATIONS[name], rounded)
    wanted = value_and_gradients(attention.reference, rounded.astype(jnp.float32))
    errors = [float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)) for a, b in zip(found, wanted, strict=True)]
    assert errors[0] < 0.004 and max(errors[1:]) < 0.004, errors


CHOICES = [
    ("cpu", 1, "bfloat16", "memory_efficient"), ("cpu", 8, "bfloat16", "reference"),
    ("tpu", 1, "bfloat16", "reference"), ("gpu", 1, "float32", "reference"),
    ("gpu", 1, "bfloat16", "flash"), ("gpu", 8, "float16", "flash"),
]  # fmt: skip


@pytest.mark.parametrize("platform,devices,dtype,expected", CHOICES)
def test_what_auto_means(monkeypatch, caplog, config, platform, devices, dtype, expected):
    caplog.set_level("INFO")
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    config.model.dtype = dtype
    assert experiment.make_model(config).attention == expected
    assert ("model.attention=reference does without" in caplog.text) == (expected == "flash")
    config.model.attention = "memory_efficient"
    assert experiment.make_model(config).attention == "memory_efficient"


@pytest.fixture
def asked(monkeypatch):
    """In place of cuDNN stands jax's own attention by XLA, which takes the same arguments: the list of its calls."""
    by_jax, calls = jax.nn.dot_product_attention, []
    monkeypatch.setattr(attention, "TILE_TOKENS", 8)
    monkeypatch.setattr(jax, "device_count", lambda: 1)

    def stand_in(q, k, v, *, implementation, **others):
        assert implementation == "cudnn" and q.shape == k.shape == v.shape
        assert not ("mask" in others and q.shape[1] % 2)
        calls.append((*q.shape[:2], *sorted(others)))
        return by_jax(q, k, v, implementation="xla", **others)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    return calls


def tokens(seed, batch, count, width, dtype):
    return jax.random.normal(jax.random.key(seed), (batch, count, 3, width), dtype)


LENGTHS = "key_value_seq_lengths", "query_seq_lengths"


@pytest.mark.parametrize(
    "devices,batch,count,forward,trained",
    [
        (1, 2, 12, (2, 12), (2, 12)),
        (1, 2, 11, (2, 11), (2, 12, *LENGTHS)),  # jax refuses the gradient of odd lengths: a token that does not count
        (1, 6, 2, (2, 6, "mask"), (2, 6, "mask")),  # three sequences in a tile of eight tokens; four do not divide six
        (1, 6, 3, (3, 6, "mask"), (3, 6, "mask")),
        (1, 3, 3, (3, 3), (3, 4, *LENGTHS)),  # three of them would be too long, two do not divide them
        (2, 4, 2, (2, 4, "mask"), (2, 4, "mask")),  # a device has two of them
        (8, 4, 4, (4, 4), (4, 4)),  # or not even one
    ],
)
def test_what_cudnn_is_asked(asked, monkeypatch, devices, batch, count, forward, trained):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    q, k, v = (tokens(i, batch, count, 16, "bfloat16") for i in range(3))

    def run(implementation):
        @jax.jit
        def value_and_gradients(q, k, v):
            out, pull = jax.vjp(implementation, q, k, v)
            return [x.astype(jnp.float32) for x in (out, *pull(jnp.cos(out)))]

        return value_and_gradients(q, k, v)

    for found, expected in zip(run(attention.flash), run(attention.reference), strict=True):
        np.testing.assert_allclose(found, expected, atol=0.02)
    assert asked == [trained]
    alone = jax.jit(attention.flash)(q, k, v).astype(jnp.float32)
    np.testing.assert_allclose(alone, attention.reference(q, k, v).astype(jnp.float32), atol=0.02)
    assert asked == [trained, forward]


@pytest.mark.parametrize("batch,queries,count,width,dtype", [
    (5, 1, 1, 16, "bfloat16"), (2, 1, 11, 16, "bfloat16"), (2, 11, 11, 20, "bfloat16"), (2, 11, 11, 16, "float32"),
])  # fmt: skip
def test_cudnn_is_not_asked_for_what_it_does_not_take_or_where_it_does_not_pay(
    asked, batch, queries, count, width, dtype
):
    x = tokens(0, batch, count, width, dtype)
    found, expected = (jax.jit(f)(x[:, :queries], x, x) for f in (attention.flash, attention.reference))
    assert (found == expected).all() and asked == []


def test_unknown_implementation(config):
    config.model.attention = "ring"
    with pytest.raises(
        ValueError, match="model.attention must be one of .*'reference', 'memory_efficient', 'flash'.*, not 'ring'"
    ):
        experiment.make_model(config)
