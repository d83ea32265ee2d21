"""XLA's flags for tests: compiled fast, not fast code, for compiling is most of what they do."""

import functools
import os
import re
import subprocess
import sys

COMPILED_FAST = (
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_use_fusion_emitters=false",  # gone since jaxlib 0.11
    "--xla_cpu_parallel_codegen_split_count=1",  # parts for threads, which have no core of their own here
)
_FOUND = "DISCOVR_TESTS_XLA_FLAGS"


def programs_shared() -> dict[str, str]:
    """Environment in which a program that any test has compiled is read, not compiled again."""
    return {
        "JAX_COMPILATION_CACHE_DIR": os.environ["DISCOVR_TESTS_PROGRAMS"],
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }


@functools.cache
def compiled_fast() -> str:
    """Those of the flags that the installed XLA knows: it ends a process for an unknown one, often without a word.

    One process asks, in another one, and those that it starts inherit the answer.
    """
    if _FOUND not in os.environ:
        environment = os.environ | {"XLA_FLAGS": " ".join(COMPILED_FAST), "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", "import jax; jax.devices()"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        unknown = re.search(r"Unknown flags? in XLA_FLAGS: (.*)", done.stderr)
        known = [flag for flag in COMPILED_FAST if not unknown or flag not in unknown[1].split()]
        os.environ[_FOUND] = " ".join(known)
    return os.environ[_FOUND]
