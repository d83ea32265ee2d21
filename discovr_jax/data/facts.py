"""What runs and reports must know of a dataset without its builder: `facts.toml` in its folder of tfds_builders.

Data, which is read and not imported: so nothing here depends on the builders, and a new dataset brings its facts along.
"""

import dataclasses
import functools
import importlib.util
import pathlib
import tomllib
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Facts:
    """Of one dataset.

    Attributes:
      config: name of the shipped config that trains on it or scores it; `--config=DATASET` means that one.
      abnormal_rule: what makes a video abnormal where `data.abnormal_rule` is None; forms: `data.labels`.
      nominal_fps: frames per second of (nearly) all its videos, for checkpoints trained by stride alone.
      training_videos: of the published split, before `data.train_filter`; for planning without the records.
      published: metrics of the DISCOVR paper, {FAMILY/METRIC: value}. Its splits and its rule for abnormal videos are
        not published: a difference to these is no paired comparison.
      described: names in the field `classes` that say whose video it is and how good, not what it shows: groups for
        `eval.subgroups`, no targets of the evaluator `classes`.
    """

    config: str
    abnormal_rule: str
    nominal_fps: float | None = None
    training_videos: int | None = None
    published: dict[str, float] = dataclasses.field(default_factory=dict)
    described: Sequence[str] = ()


@functools.cache
def known() -> dict[str, Facts]:
    """Facts of every dataset that has a builder, by its name.

    >>> known()["rvenet"].abnormal_rule
    'rvef <= 45'

    Raises:
      ValueError: a file is damaged, or lacks a key or has one too many; names it.
    """
    spec = importlib.util.find_spec("tfds_builders")
    folders = (spec and spec.submodule_search_locations) or []
    result = {}
    for path in sorted(path for folder in folders for path in pathlib.Path(folder).glob("*/facts.toml")):
        try:
            result[path.parent.name] = Facts(**tomllib.loads(path.read_text(encoding="utf-8")))
        except (TypeError, tomllib.TOMLDecodeError) as error:
            raise ValueError(f"{path}: {error}") from None
    return result


def of(name: str) -> Facts | None:
    """Of a dataset as configs name it ("echonet_pediatric/a4c"); None if it has none."""
    return known().get(name.partition("/")[0])
