"""From a config to the objects of a run: model, options, schedules, optimizer. One place, no mathematics."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from discovr_jax import configs, renamed_keys
from discovr_jax.data import facts, mixture
from discovr_jax.errors import ConfigError
from discovr_jax.losses.interface import LossOptions
from discovr_jax.losses.terms import TERMS, outputs
from discovr_jax.method import optimizer as optimizer_lib
from discovr_jax.method import schedules as schedules_lib
from discovr_jax.method import step as train_step
from discovr_jax.method import views
from discovr_jax.method.fidelity import OPTIONS, option
from discovr_jax.models import attention
from discovr_jax.models.discovr import ClipGrid, Discovr
from discovr_jax.models.patches import MOTION
from discovr_jax.models.positions import KINDS
from discovr_jax.models.variants import VARIANTS, Variant
from discovr_jax.parallel import mesh as mesh_lib


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a config means."""

    model: Discovr
    options: LossOptions
    masks: train_step.MaskOptions
    schedules: schedules_lib.Schedules
    tx: optax.GradientTransformation
    views: views.ViewOptions
    checkpoint_every: int
    log_every: int
    eval_every: int

    @property
    def total(self) -> int:
        return self.schedules.total

    def input_shapes(self, clips: int) -> dict[str, jax.ShapeDtypeStruct]:
        """What the step takes of a batch of so many clips, by name (`views.input_shapes`)."""
        grid = self.model.grid
        return views.input_shapes(self.views, clips, grid.frames, self.model.patch * grid.rows)


def config_path(name: str) -> str:
    """Path of a config given as a path or a name ("configs/adult.py", "adult"), with its ":arguments" kept.

    The name of a dataset means its config ("echonet_dynamic" that of configs/adult.py).

    A path that does not exist here is looked up beside the installed package, so that commands work from any
    directory.

    Raises:
      FileNotFoundError: neither is there; lists the shipped configs.
    """
    path, colon, arg = name.partition(":")
    if pathlib.Path(path).is_file():
        return name
    folder = pathlib.Path(configs.__path__[0])
    known = facts.of(pathlib.Path(path).stem)
    shipped = folder / f"{known.config if known else pathlib.Path(path).stem}.py"
    if not shipped.is_file():
        names = ", ".join(sorted(p.stem for p in folder.glob("*.py") if p.stem not in ("__init__", "base")))
        raise FileNotFoundError(f"no config {path!r} here, and none of that name among the shipped ones ({names})")
    return f"{shipped}{colon}{arg}"


def config_dict(config: ConfigDict) -> dict:
    """A config as plain JSON values (tuples become lists), with what `fidelity` and the dataset select written out."""
    plain = json.loads(config.to_json())
    for key in OPTIONS:
        section, name = key.split(".")
        plain[section][name] = json.loads(json.dumps(option(config, key)))
    if config.data.abnormal_rule is None:
        rules = {name: mixture.RULES.get(name.partition("/")[0]) for name in mixture.weights(config.data)}
        plain["data"]["abnormal_rule"] = rules[config.data.dataset] if config.data.dataset else rules
    return plain


def default_config() -> dict:
    """`config_dict` of configs/base.py: what keys mean where a config of an earlier version lacks them."""
    from discovr_jax.configs import base

    return config_dict(base.get_config())


def saved_config(saved: dict) -> ConfigDict:
    """The config of a checkpoint; keys that are newer than it take their defaults (those of `eval` stay away)."""
    defaults, saved = default_config(), renamed_keys.current(saved)
    merged = {
        key: defaults.get(key, {}) | value if isinstance(value, dict) and key != "eval" else value
        for key, value in saved.items()
    }
    return ConfigDict(defaults | merged)


def make_model(config: ConfigDict) -> Discovr:
    """The network of a config.

    Raises:
      ConfigError: unknown variant, or sizes that do not fit each other.
    """
    m, data = config.model, config.data
    if m.variant == "custom":
        mlp_dim = 4 * m.width if m.mlp_dim is None else m.mlp_dim
        sizes = Variant(m.width, m.depth, m.heads, mlp_dim, m.decoder_width, m.decoder_heads)
    elif m.variant in VARIANTS:
        sizes = VARIANTS[m.variant]
    else:
        raise ConfigError(f"model.variant must be one of {(*VARIANTS, 'custom')}, not {m.variant!r}")
    for name, parts in (("width", sizes.heads), ("decoder_width", sizes.decoder_heads)):
        size = getattr(sizes, name)
        if parts < 1 or size < 1 or size % parts:
            raise ConfigError(f"model.{name} = {size} must be a positive multiple of its {parts} heads")
    counts = {"data.image_size": data.image_size, "data.num_frames": data.num_frames}
    counts |= {f"model.{name}": getattr(sizes, name) for name in ("depth", "mlp_dim")}
    counts |= {f"model.{name}": m[name] for name in ("decoder_depth", "patch", "tubelet")}
    if wrong := [f"{name} = {size}" for name, size in counts.items() if size < 1]:
        raise ConfigError(f"{', '.join(wrong)} must be at least 1")
    if data.image_size % m.patch or data.num_frames % m.tubelet:
        raise ConfigError(
            f"data.image_size = {data.image_size} must be a multiple of model.patch = {m.patch}, and "
            f"data.num_frames = {data.num_frames} of model.tubelet = {m.tubelet}"
        )
    if m.motion not in MOTION:
        raise ConfigError(f"model.motion must be one of {MOTION}, not {m.motion!r}")
    if m.motion != "none" and m.patch % 2:
        raise ConfigError(f"model.motion = {m.motion!r} averages cells of half a patch: model.patch = {m.patch} is odd")
    if m.positions not in KINDS:
        raise ConfigError(f"model.positions must be one of {tuple(KINDS)}, not {m.positions!r}")
    phase_frames = config.phase.frames if config.loss.phase else 0
    if phase_frames and (phase_frames < 2 or data.num_frames % phase_frames):
        raise ConfigError(
            f"phase.frames = {phase_frames} must be at least 2 and divide data.num_frames = {data.num_frames}"
        )
    side = data.image_size // m.patch
    return Discovr(
        grid=ClipGrid(data.num_frames // m.tubelet, side, side, m.tubelet),
        patch=m.patch,
        **dataclasses.asdict(sizes),
        decoder_depth=m.decoder_depth,
        video_qkv_bias=option(config, "model.video_qkv_bias"),
        image_qkv_bias=m.image_qkv_bias,
        input_normalisation=m.input_normalisation,
        head_hidden=config.head.hidden,
        head_bottleneck=config.head.bottleneck,
        head_outputs=config.head.outputs,
        head_init=config.head.init,
        num_prototypes=m.num_prototypes,
        outputs=outputs(name for name in TERMS if config.loss[name] != 0),
        scd_frames="all" if option(config, "scd.pairing") == "reference" else "tubelet",
        dtype=jnp.dtype(m.dtype),
        remat=m.remat,
        attention=attention.choose(m.attention, jnp.dtype(m.dtype)),
        positions=m.positions,
        position_grid=None if m.position_grid is None else tuple(m.position_grid),
        motion=m.motion,
        projector_hidden=config.head.hidden,
        projector_outputs=config.head.projector_outputs,
        phase_frames=phase_frames,
    )


def make_options(config: ConfigDict) -> LossOptions:
    """Options of the losses."""
    weights = {name: float(config.loss[name]) for name in TERMS}
    weights = {name: weight for name, weight in weights.items() if weight != 0}
    if not weights:
        raise ConfigError("every weight in config.loss is 0: nothing would be trained")
    return LossOptions(
        weights=weights,
        student_temperature=config.dino.student_temperature,
        center_momentum=option(config, "dino.center_momentum"),
        centering=config.dino.centering,
        center_source=option(config, "dino.center_source"),
        center_start=option(config, "dino.center_start"),
        image_weight=option(config, "dino.image_weight"),
        scd_temperature=config.scd.temperature,
        scd_epsilon=config.scd.epsilon,
        scd_iterations=config.scd.iterations,
        scd_standardise=config.scd.standardise,
        scd_tokens=config.scd.tokens,
        scd_ignore_static=config.scd.ignore_static,
        scd_targets=option(config, "scd.targets"),
        scd_pairing=option(config, "scd.pairing"),
        scd_image_gradient=option(config, "scd.image_gradient"),
        signal_floor=config.scd.signal_floor,
        position_momentum=config.scd.position_momentum,
        own={name: dict(config[TERMS[name].section]) for name in weights if TERMS[name].section},
    )


def make_views(config: ConfigDict) -> views.ViewOptions:
    """How the views of a clip differ: local video views, and those of `loss.phase`."""
    v = config.views
    phase_frames = config.phase.frames if config.loss.phase else 0
    return views.ViewOptions(v.positive, v.crop, v.gamma, v.gain, v.attenuation, v.noise, phase_frames)


def check_settings(config: ConfigDict) -> None:
    """Raises ConfigError for what is wrong with a config whatever the data, before records are looked for."""
    make_experiment(config, max(config.batch_size, 1))  # of any size
    mixture.check_labels(config)


def make_experiment(config: ConfigDict, num_train: int) -> Experiment:
    """Everything that a run needs.

    Args:
      num_train: videos trained on, of all datasets (`pipeline.training_records`); an epoch is so many clips.
    """
    batch_size = config.batch_size
    parts = config.gradient_accumulation_steps
    if parts < 1 or batch_size % parts:
        raise ConfigError(f"batch_size = {batch_size} must be a multiple of gradient_accumulation_steps = {parts}")
    steps_per_epoch = num_train / batch_size
    total = schedules_lib.duration_steps(config.duration, steps_per_epoch=steps_per_epoch, batch_size=batch_size)

    def steps(text):
        return schedules_lib.duration_steps(text, steps_per_epoch=steps_per_epoch, batch_size=batch_size, total=total)

    o, d = config.optim, config.dino
    decay = option(config, "optim.decay")
    if decay not in ("cosine", "constant"):
        raise ConfigError(f"optim.decay must be 'cosine' or 'constant', not {decay!r}")
    schedules = schedules_lib.Schedules(
        total=total,
        peak_lr=optimizer_lib.peak_lr(o.lr, o.base_lr, batch_size),
        floor_lr=o.min_lr,
        warmup=steps(option(config, "optim.warmup")),
        lr_decay=decay,
        teacher_temperature=tuple(d.teacher_temperature),
        teacher_temperature_warmup=steps(option(config, "dino.teacher_temperature_warmup")),
        ema=tuple(option(config, "ema.momentum")),
        freeze_last=steps(d.freeze_last),
        freeze_prototypes=steps(config.scd.freeze_prototypes),
        teacher_temperature_every=max(steps(option(config, "dino.teacher_temperature_every")), 1),
    )
    masks = train_step.MaskOptions(
        kind=config.mask.kind,
        ratio=config.mask.ratio,
        video_views=config.mask.video_views,
        image_kind=config.mask.image_kind,
        image_ratio=config.mask.image_ratio,
        image_views=config.mask.image_views,
        region_fraction=config.mask.region_fraction,
    )
    return Experiment(
        model=make_model(config),
        options=make_options(config),
        masks=masks,
        schedules=schedules,
        tx=optimizer_lib.adamw(o.b1, o.b2, o.weight_decay, option(config, "optim.no_decay"), o.clip, o.image_lr_scale),
        views=make_views(config),
        checkpoint_every=steps(config.checkpoint.every),
        log_every=steps(config.log.every),
        eval_every=steps(config.eval.every),
    )


def make_train_step(experiment: Experiment, config: ConfigDict):
    """The pure step of a config: `(state, batch) -> (state, metrics)`."""
    return train_step.make_step(
        experiment.model,
        experiment.options,
        experiment.masks,
        experiment.tx,
        experiment.schedules,
        option(config, "ema.order"),
        config.seed,
        config.gradient_accumulation_steps,
        experiment.views,
    )


def jit_train_step(experiment: Experiment, config: ConfigDict, mesh: Mesh):
    """The compiled step: takes over (donates) the state and leaves the new one where the rules put it. Left to
    choose, XLA would place outputs elsewhere, and the second step would compile anew.
    """
    state = train_step.abstract_state(experiment.model, experiment.tx, experiment.masks, mesh)
    places = jax.tree.map(lambda leaf: leaf.sharding, state), mesh_lib.replicated(mesh)
    step = mesh_lib.rows_kept(make_train_step(experiment, config), mesh)
    return jax.jit(step, donate_argnums=0, out_shardings=places)


def initial_key(seed: int) -> jax.Array:
    """The key of the initial weights; apart from the steps' keys, which fold in the step number."""
    return jax.random.fold_in(jax.random.key(seed), 2**31 - 1)
