"""What each optimisation of the training step is worth: the step with one after the other taken away.

Times each form on this machine's devices, on clips of noise; with --topology (as of --mode=plan) nothing runs, and what
the program compiled for those chips does is counted. All forms compute the same loss and gradients, but for rounding,
except that without exact_teachers GELU of the teachers is another function, its approximation by tanh. Not meant to
train: they replace functions of the model while they are compiled.
"""

import argparse
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp

from discovr_jax.benchmark import machine, step
from discovr_jax.losses import scd
from discovr_jax.losses.sinkhorn import sinkhorn
from discovr_jax.models import attention, discovr, encoders, patches, transformer
from discovr_jax.parallel import mesh as mesh_lib
from discovr_jax.planning import aot, chips

HELP = "the step without each of its optimisations"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="a config file or its name, with :arguments")
    parser.add_argument("--topology", help="count for these chips (gpu:h200:1, v5e:2x2, ...) and time nothing")
    parser.add_argument("--only", help=f"some of: {', '.join(ABLATIONS)}", type=lambda text: text.split(","))
    parser.add_argument("--steps", type=int, default=10, help="steps timed")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them")


def run(given: argparse.Namespace) -> None:
    """Prints the table, a row as soon as it is known."""
    step.check_counts(given)
    if unknown := set(given.only or ()) - set(ABLATIONS):
        raise ValueError(f"--only: there is no {', '.join(sorted(unknown))}; there are {', '.join(ABLATIONS)}")
    config = given.config
    if given.topology:
        chips.simulate(chips.parse_topology(given.topology, config.mesh.slices))
        config, topology, mesh = aot.aim(config, given.topology)
        told, header = f"{given.topology}, compiled {aot.COMPILERS[aot.platform(mesh)]}", COUNTS
        measure = functools.partial(_counted, config, topology, mesh)
    else:
        mesh = mesh_lib.make_mesh(config.mesh)
        told = f"{machine.description()}; jax {jax.__version__}, {jax.device_count()} x {jax.devices()[0].device_kind}"
        header, measure = TIMES, functools.partial(_timed, config, given)
    print(f"{told}\n{config.model.variant}, {config.model.dtype}, batch {config.batch_size}\n")
    print(machine.table(header, []), flush=True)
    whole = program(config, mesh)
    print(machine.row(("the step as it is", *measure())), flush=True)
    for name in given.only or ABLATIONS:
        with taken_away(name):
            same = program(config, mesh) == whole
            cells = ("not in this step", *[""] * (len(header) - 2)) if same else measure()
        print(machine.row((ABLATIONS[name].words, *cells)), flush=True)


def program(config, mesh) -> str:
    """The step as it is traced, before any compiler."""
    _, traced, state, clips = aot.abstract_step(config, step.NUM_TRAIN, mesh, config.batch_size)
    return traced.lower(state, clips).as_text()


TIMES = ("", "ms per step (quartiles)", "clips/s", "temporaries, GB", "first loss")
COUNTS = ("", "GFLOP per device", "memory traffic, GB", "operations", "in use beyond the state, GB", "bounds added, ms")


def _timed(config, given: argparse.Namespace) -> tuple[str, ...]:
    ready = step.prepare(config)
    losses = []
    times = machine.timed(lambda: losses.append(ready.run()["loss/total"]), given.steps, given.warmup)
    low, high = (1e3 * seconds for seconds in times.quartiles)
    temporaries = ready.compiled.memory_analysis().temp_size_in_bytes
    return (
        f"{1e3 * times.median:.1f} ({low:.1f} to {high:.1f})",
        f"{config.batch_size / times.median:.1f}",
        f"{temporaries / 1e9:.2f}",
        f"{losses[0]:.4f}",
    )


def _counted(config, topology: chips.Topology, mesh) -> tuple[str, ...]:
    result = aot.compile_step(config, step.NUM_TRAIN, mesh, topology, config.batch_size)
    if result is None:
        return ("does not fit", *[""] * (len(COUNTS) - 2))
    return (
        f"{result.cost.flops / 1e9:.6g}",
        f"{result.cost.bytes / 1e9:.4g}",
        f"{result.cost.operations}",
        f"{result.working / 1e9:.4g}",
        f"{1e3 * sum(aot.seconds(result.cost, topology).values()):.4g}",
    )


@contextlib.contextmanager
def taken_away(*names: str) -> Iterator[None]:
    """Inside, models and losses are those without the optimisations named (of ABLATIONS)."""
    with contextlib.ExitStack() as stack:
        stack.callback(jax.clear_caches)  # what was traced holds the other form
        jax.clear_caches()
        for name in names:
            for owner, attribute, other in ABLATIONS[name].replaced():
                stack.enter_context(mock.patch.object(owner, attribute, other))
        yield


@dataclasses.dataclass(frozen=True)
class Ablation:
    """`words`: what is done instead. `replaced`: (owner, attribute, other value) of each function replaced."""

    words: str
    replaced: Callable[[], list[tuple]]


def _teacher_twice() -> list[tuple]:
    once = discovr.Discovr.teacher

    def teacher(self, frames, num_valid):
        if not {"image_logits", "image_tokens"} <= self.outputs:
            return once(self, frames, num_valid)
        # Another order of frames, so that the compiler does not find out that it is the same work.
        tokens = self.encode_frames(jnp.roll(frames, 1, axis=1), num_valid, 1)
        tokens = jnp.roll(tokens[:, 1:].reshape(*frames.shape[:2], self.grid.num_positions, self.width), -1, axis=1)
        return once(self, frames, num_valid).replace(image_tokens=tokens)

    return [(discovr.Discovr, "teacher", teacher)]


def _every_patch() -> list[tuple]:
    given = []
    encode, embed = encoders.Encoder.__call__, patches.PatchEmbed.__call__

    def encode_noted(self, tokens, visible=None, at=None, only_cls=False):
        given.append((tokens, visible))
        return encode(self, tokens, visible, at, only_cls)

    def embed_all(self, gathered):
        tokens, visible = given.pop()
        if visible is None:
            return embed(self, gathered)
        chosen = patches.gather_tokens(embed(self, tokens), visible.reshape(tokens.shape[0], -1))
        return chosen.reshape(*visible.shape, self.width)

    return [(encoders.Encoder, "__call__", encode_noted), (patches.PatchEmbed, "__call__", embed_all)]


def _views_apart() -> list[tuple]:
    together = discovr.Discovr._encode_views

    def encode_views(self, encoder, tokens, views, *settings, **named):
        return [together(self, encoder, tokens, (view,), *settings, **named)[0] for view in views]

    return [(discovr.Discovr, "_encode_views", encode_views)]


def _all_tokens() -> list[tuple]:
    some = transformer.Transformer.__call__
    return [(transformer.Transformer, "__call__", lambda self, x, rows=None: some(self, x)[:, :rows])]


def _traced_gradients() -> list[tuple]:
    def normalise(x, scale, bias, eps):
        return transformer._normalise_forward(x, scale, bias, eps)[0]

    return [(transformer, "normalise", normalise), (transformer, "gelu", lambda x: transformer._gelu_and_slope(x)[0])]


def _tanh_in_teachers() -> list[tuple]:
    exact = transformer.gelu

    @jax.custom_jvp
    def gelu(x):
        # In bfloat16 arithmetic: only so XLA finds that cuBLAS can do it (docs/notes/speed.md).
        return jax.nn.gelu(x, approximate=True) if x.dtype == jnp.bfloat16 else exact(x)

    gelu.defjvp(transformer._gelu_jvp)  # where a gradient is asked for it stays exact
    return [(transformer, "gelu", gelu)]


def _one_product() -> list[tuple]:
    class Attention(transformer.Attention):
        @nn.compact
        def __call__(self, x):
            width = x.shape[-1]
            kernel = self.param("qkv", transformer.xavier_qkv, (width, 3, width)).astype(self.dtype)
            bias = jnp.zeros((3, width), self.dtype)
            if self.qkv_bias == "qv":
                for part, name in ((0, "q_bias"), (2, "v_bias")):
                    bias = bias.at[part].set(self.param(name, nn.initializers.zeros, (width,)).astype(self.dtype))
            parts = jnp.einsum("bnd,dce->bnce", x, kernel) + bias
            split = (*x.shape[:2], self.heads, width // self.heads)
            q, k, v = (parts[:, :, part].reshape(split) for part in range(3))
            out = attention.IMPLEMENTATIONS[self.attention](q[:, : self.rows], k, v)
            out = out.reshape(*out.shape[:2], width)
            return nn.Dense(width, kernel_init=transformer.xavier, dtype=self.dtype, name="proj")(out)

    return [(transformer, "Attention", Attention)]


def _flash(form) -> Callable[[], list[tuple]]:
    return lambda: [(transformer, "IMPLEMENTATIONS", attention.IMPLEMENTATIONS | {"flash": form})]


def _unpacked(q, k, v):
    return attention.flash(q, k, v) if q.shape[1] >= attention.TILE_TOKENS else attention.reference(q, k, v)


def _float32_heads() -> list[tuple]:
    head, scores = discovr.DINOHead, scd._scores
    return [
        (discovr, "DINOHead", lambda *settings: head(*settings[:-1], jnp.float32)),
        (scd, "_scores", lambda tokens, prototypes: scores(tokens.astype(jnp.float32), prototypes)),
    ]


def _sinkhorn(**settings) -> Callable[[], list[tuple]]:
    return lambda: [(scd, "sinkhorn", lambda *given, **named: sinkhorn(*given, **named | settings))]


ABLATIONS = {
    "teacher_once": Ablation("image teacher once more for SCD, as the public code", _teacher_twice),
    "visible_only": Ablation("every patch embedded, then the visible ones taken", _every_patch),
    "views_together": Ablation("views one after the other, not in one call", _views_apart),
    "last_block": Ablation("all tokens in the last block, though only CLS is read", _all_tokens),
    "gradients": Ablation("LayerNorm and GELU with automatic gradients", _traced_gradients),
    "exact_teachers": Ablation("GELU of the teachers by tanh, in the product before it", _tanh_in_teachers),
    "three_products": Ablation("one product for q, k and v, then cut", _one_product),
    "flash": Ablation("no flash attention of cuDNN", _flash(attention.reference)),
    "packed": Ablation("cuDNN, but no short sequences in its tiles", _flash(_unpacked)),
    "half_heads": Ablation("heads and prototype scores in float32", _float32_heads),
    "half_kernel": Ablation("Sinkhorn's exponentials in float32", _sinkhorn(dtype=jnp.dtype("float32"))),
    "products": Ablation("Sinkhorn by log-potentials, not by products", _sinkhorn(bound=None)),
}
