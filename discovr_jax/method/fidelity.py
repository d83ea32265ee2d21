"""What `config.fidelity` selects: the paper's options, or the reference implementation's (the public code).

Each option is an ordinary config key whose default is None, "by fidelity"; a value set in a config file or on
the command line wins. docs/fidelity.md says what each one changes and why.
"""

from ml_collections import ConfigDict

from discovr_jax.errors import ConfigError

CHOICES = ("paper", "reference")

# key: (paper, reference implementation)
OPTIONS = {
    "data.crop": ("uniform", "anchors"),
    "model.video_qkv_bias": ("none", "qv"),
    "dino.teacher_temperature_warmup": ("30 epochs", "29 epochs"),
    "dino.teacher_temperature_every": ("1 steps", "1 epochs"),
    "dino.center_momentum": (0.9, 0.8),
    "dino.center_source": ("logits", "softmax"),
    "dino.center_start": ("batch", "zero"),
    "dino.image_weight": ("mean", "reference"),
    "scd.targets": ("soft", "hard"),
    "scd.pairing": ("aligned", "reference"),
    "scd.image_gradient": (True, False),
    "ema.momentum": ((0.996, 1.0), (0.99, 0.99)),
    "ema.order": ("after", "before"),
    "optim.warmup": ("40 epochs", "0 steps"),
    "optim.decay": ("cosine", "constant"),
    "optim.no_decay": ("cls_token|mask_token|prototypes", "mask_token"),
}


def option(config: ConfigDict, key: str):
    """The value of an option in OPTIONS: as set, or as `config.fidelity` selects where it is None.

    Raises:
      ConfigError: unknown fidelity.
    """
    if config.fidelity not in CHOICES:
        raise ConfigError(f"config.fidelity must be one of {CHOICES}, not {config.fidelity!r}")
    section, name = key.split(".")
    value = config[section][name]
    return OPTIONS[key][CHOICES.index(config.fidelity)] if value is None else value
