"""Config keys, and values of keys, that had another name in earlier versions: the old names keep working."""

import copy
import logging
from typing import Any

from ml_collections import ConfigDict

logger = logging.getLogger(__name__)

# Old key -> new key.
KEYS: dict[str, str] = {
    "accumulate": "gradient_accumulation_steps",
    "optim.image_rate": "optim.image_lr_scale",
    "model.intensity": "model.input_normalisation",
}
# Key by its new name -> {old value: new value}.
VALUES: dict[str, dict[str, str]] = {
    "model.attention": {"whole": "reference", "tiled": "memory_efficient", "cudnn": "flash"},
    "model.positions": {"flattened": "1d", "axes": "factorised"},
}


def current(config: dict) -> dict:
    """A saved config, nested, with today's names; it is left as it was. Says nothing: its user typed none of them."""
    found = copy.deepcopy(config)
    _rename(found, said=False)
    return found


def update(config: ConfigDict) -> None:
    """The same for a config that a file has just made, in place, with a warning for each old name."""
    with config.unlocked():
        _rename(config, said=True)


def flags(argv: list[str]) -> list[str]:
    """Arguments "--config.KEY=VALUE" with today's keys, and a warning for each old one."""
    found = []
    for argument in argv:
        name, equals, value = argument.partition("=")
        key = name.removeprefix("--config.")
        if key != name and key in KEYS:
            _say(key, KEYS[key])
            name = f"--config.{KEYS[key]}"
        found.append(f"{name}{equals}{value}")
    return found


def _rename(config: Any, said: bool) -> None:
    """`config`: nested, dict or ConfigDict."""
    for old, new in KEYS.items():
        holder, name = _holder(config, old)
        if holder is not None and name in holder:
            target, last = _holder(config, new)
            target[last] = holder[name]
            del holder[name]
            if said:
                _say(old, new)
    for key, names in VALUES.items():
        holder, name = _holder(config, key)
        if holder is not None and name in holder and (value := holder[name]) in names:
            holder[name] = names[value]
            if said:
                _say(f"{key}={value}", f"{key}={names[value]}")


def _holder(config: Any, key: str) -> tuple[Any, str]:
    """The section that holds a dotted key, None where it is not there, and the key's last name."""
    *sections, last = key.split(".")
    for section in sections:
        if not isinstance(config, dict | ConfigDict) or section not in config:
            return None, last
        config = config[section]
    return (config if isinstance(config, dict | ConfigDict) else None), last


def _say(old: str, new: str) -> None:
    logger.warning("config: %s is called %s now; the old name still works", old, new)
