"""A trace of some calls, and the operations of the compiled program that took longest in it."""

import collections
import pathlib
import re
from collections.abc import Callable, Iterable

import jax

_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = .*$", re.MULTILINE)
_SCOPE = re.compile(r'op_name="([^"]*)"')
_CALLS, _TOP = 2, 20


def top_operations(call: Callable[[], object], directory: str, program: str) -> list[tuple[str, str, str, str]]:
    """Traces two calls and sums the time of each operation, without what it calls.

    Args:
      call: returns when its work is done.
      directory: the trace goes there (TensorBoard's profile plugin and Perfetto read it).
      program: text of the compiled program, for the place in the model of each operation.

    Returns:
      (operation, place, calls, milliseconds) a call, the longest first. On several threads or streams
      times add up to more than the wall time.
    """
    before = set(pathlib.Path(directory).rglob("*.xplane.pb"))
    with jax.profiler.trace(directory, create_perfetto_trace=False):
        for _ in range(_CALLS):
            call()
    (file,) = set(pathlib.Path(directory).rglob("*.xplane.pb")) - before
    profile = jax.profiler.ProfileData.from_file(str(file))
    lines = (line.events for plane in profile.planes for line in plane.lines)
    return rank(lines, scopes(program))


def rank(lines: Iterable[Iterable], places: dict[str, str]) -> list[tuple[str, str, str, str]]:
    """The rows of `top_operations` from the events of every thread or stream."""
    own, calls = collections.Counter(), collections.Counter()
    for events in lines:
        spans = [(e.start_ns, e.duration_ns, e.name) for e in events if any(k == "hlo_op" for k, _ in e.stats)]
        inside: list[tuple[float, str]] = []
        for start, duration, name in sorted(spans, key=lambda span: (span[0], -span[1])):
            while inside and inside[-1][0] <= start:
                inside.pop()
            if inside:
                own[inside[-1][1]] -= duration
            own[name] += duration
            calls[name] += 1
            inside.append((start + duration, name))
    return [
        (name, places.get(name, ""), f"{calls[name] / _CALLS:g}", f"{time / _CALLS / 1e6:.1f}")
        for name, time in own.most_common(_TOP)
    ]


def scopes(program: str) -> dict[str, str]:
    """{instruction: where in the model it comes from} of a compiled program's text.

    An instruction also stands under the name of its GPU kernel, which has no dots. Kernels of libraries have names of
    their own, and no place.
    """
    result = {}
    for match in _INSTRUCTION.finditer(program):
        scope = _SCOPE.search(match[0])
        if scope:
            place = scope[1].removeprefix("jit(step)/")
            result[match[1]] = place
            result.setdefault(re.sub(r"[.\-]", "_", match[1]), place)
    return result
