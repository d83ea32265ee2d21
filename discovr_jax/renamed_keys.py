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
    "fidelity": {"released": "reference"},
    "dino.image_weight": {"released": "reference"},
    "scd.pairing": {"released": "reference"},
}
# Type of an evaluator -> {old option: new option}: evaluators have names of the user's choice.
_OF_A_HEAD = {"rate": "learning_rate", "decays": "weight_decays"}
OPTIONS: dict[str, dict[str, str]] = {
    "probe": {"strengths": "Cs"},
    "regression": {"strengths": "alphas"},
    "transfer": {"bank": "source_dataset"},
    "segmentation": {
        f"{head}.{old}": f"{head}.{new}" for head in ("linear", "decoder") for old, new in _OF_A_HEAD.items()
    },
    "attentive": {"fit.decays": "fit.weight_decays"},
    "finetune": {"fit.rate": "fit.learning_rate"},
    "reconstruction": {"rate": "learning_rate"},
}
_EVALUATORS = "eval.evaluators"


def current(config: dict) -> dict:
    """A saved config, nested, with today's names; it is left as it was. Says nothing: its user typed none of them."""
    renamed = copy.deepcopy(config)
    _rename(renamed, said=False)
    return renamed


def update(config: ConfigDict) -> None:
    """The same for a config that a file has just made, in place, with a warning for each old name."""
    with config.unlocked():
        _rename(config, said=True)


def flags(argv: list[str]) -> list[str]:
    """Arguments "--config.KEY=VALUE" with today's keys, and a warning for each old one."""
    renamed = []
    for argument in argv:
        name, equals, value = argument.partition("=")
        key = name.removeprefix("--config.")
        if key != name and (new := _new_key(key)) != key:
            _say(key, new)
            name = f"--config.{new}"
        renamed.append(f"{name}{equals}{value}")
    return renamed


def _new_key(key: str) -> str:
    """Today's name of a key. The type of an evaluator is its name, where a type has it, else that of measurements."""
    if key.startswith(f"{_EVALUATORS}."):
        evaluator, _, option = key.removeprefix(f"{_EVALUATORS}.").partition(".")
        options = OPTIONS.get(evaluator, OPTIONS["regression"])
        return f"{_EVALUATORS}.{evaluator}.{options.get(option, option)}"
    return KEYS.get(key, key)


def _rename(config: Any, said: bool) -> None:
    """`config`: nested, dict or ConfigDict."""
    for old, new in KEYS.items():
        _move(config, old, new, said)
    holder, name = _holder(config, _EVALUATORS)
    for evaluator, options in _items(holder, name):
        kind = options.get("type", evaluator) if isinstance(options, dict | ConfigDict) else ""
        for old, new in OPTIONS.get(kind, {}).items():
            _move(config, f"{_EVALUATORS}.{evaluator}.{old}", f"{_EVALUATORS}.{evaluator}.{new}", said)
    for key, names in VALUES.items():
        holder, name = _holder(config, key)
        if holder is not None and name in holder and (value := holder[name]) in names:
            holder[name] = names[value]
            if said:
                _say(f"{key}={value}", f"{key}={names[value]}")


def _move(config: Any, old: str, new: str, said: bool) -> None:
    """The value of the old key, where it has one, to the new."""
    holder, name = _holder(config, old)
    if holder is not None and name in holder:
        target, last = _holder(config, new)
        target[last] = holder[name]
        del holder[name]
        if said:
            _say(old, new)


def _items(holder: Any, name: str) -> list[tuple[str, Any]]:
    section = holder.get(name) if holder is not None else None
    return list(section.items()) if isinstance(section, dict | ConfigDict) else []


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
