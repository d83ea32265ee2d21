"""Head predictions from pooled features, cached on disk: evaluated again, only what has changed is fitted anew."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np

from discovr_jax import trees
from discovr_jax.evaluation import interface, results_io
from discovr_jax.evaluation.features import cache as feature_cache

# {readout: predictions, one per seed and draw; or why there are none}
Table = dict[str, list[interface.Predictions] | interface.Skip]

_LIBRARIES = ("numpy", "scikit-learn", "scipy", "jax", "flax", "optax")  # heads are fitted with


@functools.cache
def code() -> str:
    """SHA-256 of what decides how heads are fitted: the evaluators' source, and the libraries' versions."""
    result = hashlib.sha256(" ".join(map(version, _LIBRARIES)).encode())
    here = pathlib.Path(__file__).parent
    files = [here / name for name in ("interface.py", "neighbours.py", "runner.py")]
    files += [path for folder in ("evaluators", "metrics") for path in (here / folder).rglob("*.py")]
    for path in sorted(files):
        result.update(path.relative_to(here).as_posix().encode() + path.read_bytes())
    return result.hexdigest()


@dataclasses.dataclass(frozen=True)
class Store:
    """Where tables are cached.

    Attributes:
      directory: None keeps nothing.
      dataset: that is scored, as part of a file name.
      share: of this process.
    """

    directory: pathlib.Path | None = None
    dataset: str = ""
    share: feature_cache.Share = feature_cache.ALONE

    def table(self, name: str, head: Any, data: Any, make: Callable[[], Table]) -> Table:
        """The predictions of one head on one encoder's pooled features: read, or made.

        Args:
          name: of the file; predictions of another head or from other data under the same name are replaced.
          head: what is fitted, JSON values; data: what on, a tree of arrays (`trees.fingerprint`).
          make: what it raises goes through, and nothing is cached.
        """
        if self.directory is None:
            return make()
        keys = [feature_cache.cache_key(code(), {"head": head}, [[trees.fingerprint(data)]])]
        names = [f"{self.dataset}-{name}"]
        return _unpack(feature_cache.cached(self.directory, names, keys, lambda _: [_pack(make())], self.share)[0])


NOWHERE = Store()


def _pack(table: Table) -> dict[str, np.ndarray]:
    """Arrays under READOUT/NUMBER/NAME, all else as JSON: of a skipped pooling the reason."""
    arrays: dict[str, np.ndarray] = {}
    rest: dict[str, Any] = {}
    for readout, group in table.items():
        if isinstance(group, interface.Skip):
            rest[readout] = str(group)
            continue
        rest[readout] = [
            results_io.plain({"details": each.details, "report": each.report, "head_seed": each.head_seed})
            for each in group
        ]
        for number, each in enumerate(group):
            named = {"val": each.val, "test": each.test} | {f"output {n}": v for n, v in each.outputs.items()}
            named |= {f"fitted {n}": v for n, v in each.fitted.items()}
            arrays |= {f"{readout}/{number}/{n}": np.asarray(v) for n, v in named.items() if v is not None}
    return arrays | {"json": np.asarray(json.dumps(rest))}


def _unpack(packed: Mapping[str, np.ndarray]) -> Table:
    table: Table = {}
    for readout, group in json.loads(str(packed["json"])).items():
        if isinstance(group, str):
            table[readout] = interface.Skip(group)
            continue
        table[readout] = result = []
        for number, rest in enumerate(group):
            start = f"{readout}/{number}/"
            arrays = {name.removeprefix(start): each for name, each in packed.items() if name.startswith(start)}
            val, test = arrays.pop("val", None), arrays.pop("test", None)
            outputs, fitted = (
                {name.removeprefix(kind): each for name, each in arrays.items() if name.startswith(kind)}
                for kind in ("output ", "fitted ")
            )
            result.append(interface.Predictions(val, test, outputs=outputs, fitted=fitted, **rest))
    return table
