"""What a compiled program does on each device, read from its HLO text: matrix products, memory traffic, collectives.

XLA's own cost analysis counts the body of a loop once, and does not list collectives.
"""

import dataclasses
import functools
import math
import re
from collections import defaultdict

import numpy as np

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
# They move no data, or what they call does.
FREE = (
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call", "conditional", "after-all",
    "partition-id", "replica-id", "iota", "opt-barrier",
)  # fmt: skip

_LOOP = ("body", "condition")
_LIBRARY = re.compile(r'custom_call_target="__(cublas|cudnn)\$(\w*)')


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind over groups of one size: `count` a run, `bytes` of all of them on each device.

    Bytes are those of the whole array: what an all-gather ends with, what the others start with.
    """

    kind: str
    count: int
    bytes: int
    group: int


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one run on one device.

    Attributes:
      flops: of matrix products (2 a multiply-add), those inside of libraries' calls among them.
      bytes: read and written in HBM.
      operations: fusions, products and all else that is started one after another; on a GPU about the kernels.
    """

    flops: float
    bytes: float
    collectives: tuple[Collective, ...]
    operations: int


@dataclasses.dataclass(frozen=True)
class Instruction:
    """`name = shape opcode(operands), attributes`."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    literal: str
    attributes: str
    is_root: bool


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Computations by name, and the name of the entry.

    Raises:
      ValueError: the text holds no entry computation.
    """
    computations, entry, current = {}, None, None
    for line in text.splitlines():
        header = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if header:
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif current is not None and (result := re.match(r"\s+(ROOT )?%?([\w.\-]+) = (.*)", line)):
            current.append(_instruction(result[2], result[3], bool(result[1])))
    if entry is None:
        raise ValueError("this is no HLO text: it has no ENTRY computation")
    return computations, entry


def _instruction(name: str, rest: str, is_root: bool) -> Instruction:
    end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].strip()
    opcode, _, after = rest.partition("(")
    end = _closing(rest, len(opcode))
    inside = rest[len(opcode) + 1 : end - 1]
    return Instruction(name, shape, opcode, tuple(re.findall(r"%([\w.\-]+)", inside)), inside, rest[end:], is_root)


def _closing(text: str, start: int) -> int:
    """Position after the parenthesis that closes the one at `start`."""
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] == "(") - (text[position] == ")")
        if depth == 0:
            return position + 1
    raise ValueError(f"unbalanced parentheses in HLO: {text[:80]}")


def arrays(shape: str) -> list[tuple[tuple[int, ...], float, bool]]:
    """(dimensions, bytes, lies in HBM) of each array of a shape; TPU programs mark what lies in fast memory."""
    result = []
    for dtype, dims, layout in re.findall(r"([a-z]\w*)\[([\d,<=]*)\](\{[^}]*\})?", shape):
        size = tuple(int(d.strip("<=")) for d in dims.split(",") if d)
        bits = 0 if dtype == "token" else int((re.search(r"\d+", dtype) or ["8"])[0])
        result.append((size, math.prod(size) * bits / 8, not re.search(r"S\([1-9]", layout)))
    return result


def _bytes(shape: str, hbm_only: bool = False) -> float:
    return sum(size for _, size, in_hbm in arrays(shape) if in_hbm or not hbm_only)


def cost(text: str) -> Cost:
    """Adds up a program as `compiled.as_text()` gives it; loops count as often as they run.

    A loop whose number of rounds the text does not tell counts once.
    """
    computations, entry = parse(text)
    totals = {"flops": 0.0, "bytes": 0.0, "operations": 0}
    result = defaultdict(lambda: [0, 0.0])

    def walk(name: str, times: int, fused: bool):
        shapes = {each.name: each.shape for each in computations[name]}
        for each in computations[name]:
            kind = each.opcode.removesuffix("-start")
            if each.opcode.endswith(("-done", "-update")):
                continue
            if kind in COLLECTIVES:
                group = _group_size(each.attributes)
                size = sum(_bytes(shapes[operand]) for operand in each.operands)
                row = result[kind, group]
                row[0] += times
                row[1] += times * size * (group if kind == "all-gather" else 1)
            elif kind in _FLOPS:
                totals["flops"] += times * _FLOPS[kind](each, shapes)
            if not fused and kind not in FREE:
                totals["bytes"] += times * _traffic(each, shapes, computations)
                totals["operations"] += times
            if each.opcode == "while":
                body, condition = (re.search(rf"{key}=%?([\w.\-]+)", each.attributes)[1] for key in _LOOP)
                walk(body, times * _rounds(each.attributes, condition, computations), fused)
            elif kind not in COLLECTIVES:
                for callee in _callees(each.attributes):
                    walk(callee, times, fused or kind == "fusion")

    walk(entry, 1, False)
    rows = [Collective(kind, count, int(size), group) for (kind, group), (count, size) in sorted(result.items())]
    return Cost(totals["flops"], totals["bytes"], tuple(rows), totals["operations"])


def _callees(attributes: str) -> list[str]:
    """Computations that an instruction runs (not the scalar ones that a reduction applies)."""
    names = re.findall(r"\bcalls=%?([\w.\-]+)", attributes)
    for branches in re.findall(r"(?:branch_computations|called_computations)=\{([^}]*)\}", attributes):
        names += re.findall(r"%?([\w.\-]+)", branches)
    return names + re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", attributes)


def _rounds(attributes: str, condition: str, computations) -> int:
    told = re.search(r"known_trip_count\W+n\W+(\d+)", attributes)
    if told:
        return int(told[1])
    names = [condition, *(callee for each in computations[condition] for callee in _callees(each.attributes))]
    limits = {
        int(each.literal)
        for name in names
        for each in computations[name]
        if each.opcode == "constant" and each.literal.isdecimal()
    }
    return limits.pop() if len(limits) == 1 else 1


def _group_size(attributes: str) -> int:
    """Devices of a group, from {{0,1},{2,3}}, [2,4]<=[8], mesh['a'=2,'b'=4] {'b'} or source-target pairs."""
    if result := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(result[1])
    if result := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return len(result[1].split(","))
    if result := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", result[1]))
        parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", result[2])
        return math.prod(int(part or sizes[axis]) for axis, part in parts)
    return 2  # collective-permute: from one device to another


def _traffic(each: Instruction, shapes: dict[str, str], computations) -> float:
    """Bytes that an instruction reads and writes in HBM; a slice of an array in a fusion is not the whole array."""
    reads = [_bytes(shapes[operand], True) for operand in each.operands]
    writes = _bytes(each.shape, True)
    if each.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * writes
    if each.opcode == "dynamic-update-slice":
        return 2 * reads[1]
    if each.opcode == "custom-call" and each.shape.startswith("(") and _LIBRARY.search(each.attributes):
        writes -= arrays(each.shape)[-1][1]  # scratch, the last of several results
    if each.opcode.endswith("-start"):  # the result also names the operands
        return sum(reads) + max(writes - sum(reads), 0)
    if each.opcode == "fusion":
        body = computations[_callees(each.attributes)[0]]
        inside = {inner.name: inner for inner in body}
        users = defaultdict(list)
        for inner in body:
            for operand in inner.operands:
                users[operand].append(inner)
        for inner in body:
            if inner.opcode == "parameter" and (uses := users[inner.name]):
                number = int(inner.literal)
                if all(use.opcode == "dynamic-slice" for use in uses):
                    reads[number] = min(reads[number], sum(_bytes(use.shape) for use in uses))
                elif all(use.opcode == "dynamic-update-slice" and use.operands[0] == inner.name for use in uses):
                    reads[number] = 0.0
        (root,) = (inner for inner in body if inner.is_root)
        outputs = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
        for output in outputs:
            if output.opcode == "dynamic-update-slice" and arrays(output.shape)[0][2]:
                writes -= _bytes(output.shape, True) - _bytes(inside[output.operands[1]].shape)
    return sum(reads) + writes


def _dims(shape: str) -> tuple[int, ...]:
    return arrays(shape)[0][0]


def _dot_flops(each: Instruction, shapes: dict[str, str]) -> float:
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", each.attributes)
    left = _dims(shapes[each.operands[0]])
    depth = math.prod(left[int(axis)] for axis in contracted[1].split(",") if axis) if contracted else 1
    return 2.0 * math.prod(_dims(each.shape)) * depth


def _library_flops(each: Instruction, shapes: dict[str, str]) -> float:
    """Of cuBLAS's products and cuDNN's attention, which GPU programs call; nothing for other calls."""
    called = _LIBRARY.search(each.attributes)
    if called and called[1] == "cublas":
        contracted = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', each.attributes)
        left = _dims(shapes[each.operands[0]])
        depth = math.prod(left[int(axis)] for axis in re.findall(r"\d+", contracted[1]))
        return 2.0 * math.prod(_dims(each.shape)) * depth
    if called and called[2].startswith("fmha"):  # queries [B, N, heads, d], keys [B, M, heads, d]
        queries, keys = (_dims(shapes[operand]) for operand in each.operands[:2])
        # Scores and output; for the gradient scores again, and the gradients of weights, queries, keys and values.
        return 2.0 * math.prod(queries) * keys[1] * (5 if called[2].endswith("Backward") else 2)
    return 0.0


def _convolution_flops(each: Instruction, shapes: dict[str, str]) -> float:
    """Multiply-adds that meet an element: TPU programs write batched products as dilated, padded convolutions."""
    left, right = (_dims(shapes[operand]) for operand in each.operands[:2])
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", each.attributes)
    window = re.search(r"window=\{([^}]*)\}", each.attributes)
    settings = dict(part.split("=") for part in window[1].split()) if window else {}

    def setting(name, axis, default):
        return settings[name].split("x")[axis] if name in settings else default

    flops = 2.0 * left[labels[1].index("b")] * right[labels[2].index("i")] * right[labels[2].index("o")]
    for axis in range(len(labels[1]) - 2):
        low = int(setting("pad", axis, "0_0").split("_")[0])
        numbers = [int(setting(name, axis, 1)) for name in ("size", "stride", "lhs_dilate", "rhs_dilate")]
        inputs, outputs = left[labels[1].index(str(axis))], _dims(each.shape)[labels[3].index(str(axis))]
        flops *= _meetings(inputs, outputs, low, *numbers)
    groups = re.search(r"batch_group_count=(\d+)", each.attributes)
    return flops / int(groups[1]) if groups else flops


@functools.cache
def _meetings(inputs: int, outputs: int, low: int, size: int, stride: int, dilate: int, kernel_dilate: int) -> int:
    """Pairs (output, kernel element) of one axis that fall on an input, not on padding or a hole."""
    at = np.arange(outputs)[:, None] * stride + np.arange(size) * kernel_dilate - low
    return int(((at >= 0) & (at < (inputs - 1) * dilate + 1) & (at % dilate == 0)).sum())


_FLOPS = {"dot": _dot_flops, "convolution": _convolution_flops, "custom-call": _library_flops}
