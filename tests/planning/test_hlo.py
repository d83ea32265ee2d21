"""Costs read from compiled programs: hand-written text, and a program whose products are counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from discovr_jax.planning import hlo

# A loop of five rounds (the text of the condition says so) with an all-reduce of 4 KB over four devices and a fused
# product; then an all-gather of 1 KB over groups of two, and a pair of an asynchronous reduce-scatter.
LOOP = """HloModule made_up, num_partitions=4

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused (p0: f32[32,32], p1: f32[32,32]) -> f32[32,32] {
  %p0 = f32[32,32]{1,0} parameter(0)
  %p1 = f32[32,32]{1,0} parameter(1)
  ROOT %dot.1 = f32[32,32]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (state: (s32[], f32[32,32])) -> (s32[], f32[32,32]) {
  %state = (s32[], f32[32,32]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[32,32]{1,0} get-tuple-element(%state), index=1
  %y = f32[32,32]{1,0} fusion(%x, %x), kind=kOutput, calls=%fused, metadata={op_name="a(b)c"}
  %all-reduce.1 = f32[32,32]{1,0} all-reduce(%y), channel_id=1, replica_groups=[1,4]<=[4], to_apply=%add
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  ROOT %out = (s32[], f32[32,32]{1,0}) tuple(%next, %all-reduce.1)
}

%condition (state.1: (s32[], f32[32,32])) -> pred[] {
  %state.1 = (s32[], f32[32,32]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %limit = s32[] constant(5)
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (start: (s32[], f32[32,32]), w: f32[4,32], v: f32[16]) -> f32[4] {
  %start = (s32[], f32[32,32]{1,0}) parameter(0)
  %w = f32[4,32]{1,0} parameter(1)
  %v = f32[16]{0} parameter(2)
  %while.1 = (s32[], f32[32,32]{1,0}) while(%start), condition=%condition, body=%body
  %all-gather.1 = f32[8,32]{1,0} all-gather(%w), channel_id=2, replica_groups={{0,1},{2,3}}, dimensions={0}
  %begun = ((f32[16]{0}), f32[4]{0}) reduce-scatter-start(%v), replica_groups=mesh['x'=4,'y'=1] {'x'}, to_apply=%add
  ROOT %ended = f32[4]{0} reduce-scatter-done(%begun)
}
"""


def test_loops_products_and_collectives_of_a_hand_written_program():
    found = hlo.cost(LOOP)
    assert found.flops == 5 * 2 * 32**3
    assert found.collectives == (
        hlo.Collective("all-gather", 1, 2 * 4 * 32 * 4, 2),
        hlo.Collective("all-reduce", 5, 5 * 4096, 4),
        hlo.Collective("reduce-scatter", 1, 64, 4),
    )
    # In the loop the product reads two arrays and writes one, the sum reads and writes one, the counter 12 bytes; then
    # the gathered array in part and whole, and the scattered one whole and in part.
    assert found.bytes == 5 * (5 * 4096 + 12) + (512 + 1024) + (64 + 16)
    # In the loop the product, the sum and the counter; then two collectives, the second in two halves.
    assert found.operations == 5 * 3 + 2


def test_a_loop_whose_length_is_told():
    text = LOOP.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}')
    assert hlo.cost(text).flops == 7 * 2 * 32**3


# Two batched products as TPU programs have them: in fast memory (S(1)), and as a dilated convolution over the batch.
CONVOLUTION = """HloModule made_up

ENTRY %main (x: bf16[4,64,256], y: bf16[4,64,256]) -> bf16[4,64,64] {
  %x = bf16[4,64,256]{2,1,0:T(8,128)(2,1)S(1)} parameter(0)
  %y = bf16[4,64,256]{2,1,0:T(8,128)(2,1)} parameter(1)
  ROOT %c = bf16[4,64,64]{2,1,0} convolution(%x, %y), window={size=4 stride=3 lhs_dilate=4}, dim_labels=0bf_0oi->0bf
}
"""


# What GPU programs call of libraries: a product of [6, 4] and [4, 8], attention of 2 clips of 10 tokens in 3 heads of
# 16, its gradient, and a call that multiplies nothing.
LIBRARIES = """HloModule made_up

ENTRY %main (x: bf16[6,4], y: bf16[4,8], q: bf16[2,10,3,16], k: bf16[2,12,3,16], m: f32[2,3,10]) -> bf16[6,8] {
  %x = bf16[6,4]{1,0} parameter(0)
  %y = bf16[4,8]{1,0} parameter(1)
  %q = bf16[2,10,3,16]{3,2,1,0} parameter(2)
  %k = bf16[2,12,3,16]{3,2,1,0} parameter(3)
  %m = f32[2,3,10]{2,1,0} parameter(4)
  %product = (bf16[6,8]{1,0}, s8[64]{0}) custom-call(%x, %y), custom_call_target="__cublas$lt$matmul", \
backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}
  %out = (bf16[2,3,10,16]{3,1,2,0}, u8[0]{0}) custom-call(%q, %k, %k), custom_call_target="__cudnn$fmhaSoftmax"
  %back = (bf16[2,3,10,16]{3,1,2,0}, u8[0]{0}) custom-call(%q, %k, %k, %m, %q, %q), \
custom_call_target="__cudnn$fmhaScaleBiasSoftmaxBackward"
  %sorted = f32[2,3,10]{2,1,0} custom-call(%m), custom_call_target="__cub$DeviceRadixSort"
  ROOT %first = bf16[6,8]{1,0} get-tuple-element(%product), index=0
}
""".replace("\\\n", "")


def test_products_and_attention_of_libraries():
    product, scores = 2 * 6 * 8 * 4, 2 * (2 * 3 * 10 * 12 * 16)
    found = hlo.cost(LIBRARIES)
    assert found.flops == product + (2 + 5) * scores
    assert found.operations == 4
    # Scratch is no traffic: s8[64] and u8[0].
    q, k, m = 2 * 10 * 3 * 16 * 2, 2 * 12 * 3 * 16 * 2, 2 * 3 * 10 * 4
    assert found.bytes == 2 * (6 * 4 + 4 * 8 + 6 * 8) + (q + 2 * k + q) + (3 * q + 2 * k + m + q) + 2 * m


def test_a_product_of_a_library_without_scratch():
    text = LIBRARIES.replace("(bf16[6,8]{1,0}, s8[64]{0})", "bf16[6,8]{1,0}").replace("get-tuple-element", "copy")
    # The copy reads and writes the product, which is written once.
    assert hlo.cost(text).bytes - hlo.cost(LIBRARIES).bytes == 2 * 2 * 6 * 8


def test_a_batched_product_as_a_convolution():
    found = hlo.cost(CONVOLUTION)
    assert found.flops == 2 * 4 * 64 * 64 * 256
    assert found.bytes == 2 * (4 * 64 * 256 + 4 * 64 * 64)  # x lies in fast memory


def test_a_slice_of_a_large_array_is_read_alone():
    text = """HloModule made_up

%fused (p0: f32[100,8], p1: s32[]) -> f32[1,8] {
  %p0 = f32[100,8]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %row = f32[1,8]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,8}
  ROOT %twice = f32[1,8]{1,0} add(%row, %row)
}

ENTRY %main (x: f32[100,8], i: s32[]) -> f32[1,8] {
  %x = f32[100,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %out = f32[1,8]{1,0} fusion(%x, %i), kind=kLoop, calls=%fused
}
"""
    assert hlo.cost(text).bytes == 32 + 4 + 32


def test_no_program():
    with pytest.raises(ValueError, match="no HLO text"):
        hlo.cost("nothing")


def test_a_compiled_program(mesh8):
    """A product in a loop on eight devices: rows are shared out, each round sums the gradient over all."""

    def loss(w, x):
        x, _ = jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=3)
        return (x**2).sum()

    place = NamedSharding(mesh8, PartitionSpec("data"))
    w = jax.ShapeDtypeStruct((32, 32), np.float32, sharding=NamedSharding(mesh8, PartitionSpec()))
    x = jax.ShapeDtypeStruct((64, 32), np.float32, sharding=place)
    found = hlo.cost(jax.jit(jax.value_and_grad(loss)).lower(w, x).compile().as_text())
    products = 3 * 3 * 2 * 64 * 32 * 32  # forward, and backward to x and to w (the first x needs none, but is scanned)
    assert found.flops * 8 == products
    sums = [each for each in found.collectives if each.kind == "all-reduce"]
    assert sum(each.bytes for each in sums) == 3 * 4096 + 4 and {each.group for each in sums} == {8}
