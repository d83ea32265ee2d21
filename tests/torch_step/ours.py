"""What of our config, state and masks the step in PyTorch takes."""

import jax
import numpy as np
import torch

from discovr_jax import trees
from discovr_jax.convert import names
from discovr_jax.method import masking
from discovr_jax.method.experiment import Experiment
from discovr_jax.method.fidelity import OPTIONS, option
from tests.torch_step.network import Sizes
from tests.torch_step.step import Masks

# What the step in PyTorch is written for, besides `fidelity = paper`.
FIXED = {
    "model.positions": "1d", "model.input_normalisation": "imagenet", "model.motion": "none", "model.dtype": "float32",
    "model.image_qkv_bias": "none", "mask.kind": "tube", "mask.image_kind": "tube", "views.positive": "same",
    "loss.vid": 1.0, "loss.img": 1.0, "loss.scd": 1.0, "loss.pix": 0.0, "loss.jepa": 0.0, "loss.phase": 0.0,
    "loss.amplitude": 0.0, "dino.student_temperature": 0.1, "dino.centering": "mean", "scd.standardise": "frame",
    "scd.tokens": "all", "scd.ignore_static": False, "scd.temperature": 0.1, "scd.epsilon": 0.05,
    "scd.iterations": 10, "optim.b1": 0.9, "optim.b2": 0.95, "optim.weight_decay": 0.05, "optim.clip": None,
    "optim.image_lr_scale": 1.0, "gradient_accumulation_steps": 1,
}  # fmt: skip
# Numbers that change no work.
SCHEDULED = (
    "data.crop", "dino.teacher_temperature_warmup", "dino.teacher_temperature_every", "ema.momentum", "optim.warmup",
    "optim.decay",
)  # fmt: skip


def sizes_of(config, experiment: Experiment) -> Sizes:
    """Raises ValueError for a config of which the step in PyTorch does other work."""
    wanted = FIXED | {key: paper for key, (paper, _) in OPTIONS.items() if key not in SCHEDULED}
    for key, value in wanted.items():
        section, _, name = key.rpartition(".")
        found = option(config, key) if key in OPTIONS else (config[section] if section else config)[name]
        if found != value:
            raise ValueError(f"config.{key} = {found!r}: the step in PyTorch is written for {value!r}")
    model, masks = experiment.model, experiment.masks
    same = ("patch", "width", "depth", "heads", "decoder_width", "decoder_depth", "decoder_heads", "head_hidden")
    same = (*same, "head_bottleneck", "head_outputs", "num_prototypes")
    return Sizes(
        model.grid.time, model.grid.rows, model.grid.cols, model.grid.tubelet,
        mlp_dim=model.mlp_dim or 4 * model.width,
        video_visible=masking.num_visible(model.grid.num_positions, masks.ratio),
        image_visible=masking.num_visible(model.grid.num_positions, masks.image_ratio),
        video_views=masks.video_views,
        image_views=masks.image_views,
        **{name: getattr(model, name) for name in same},
    )  # fmt: skip


def state_dict(state) -> dict[str, torch.Tensor]:
    """Parameters, teachers and centres of a `TrainState` under their names in PyTorch."""
    found = {}
    kept = {"params": state.params, "teacher": state.teacher, "memory": {"centers": state.memory.centers}}
    for path, array in jax.tree_util.tree_leaves_with_path(kept):
        name, tensor = names.to_torch(trees.path_name(path), np.asarray(array))
        found[name] = torch.tensor(np.ascontiguousarray(tensor))
    return found


def masks_of(masks) -> Masks:
    """Of a step's `models.discovr.Masks`."""

    def tensor(array):
        return torch.tensor(np.asarray(array), dtype=torch.int64)

    return Masks(
        tensor(masks.decoder_view), tensor(np.stack(masks.local_views, 1)), tensor(np.stack(masks.image_views, 1))
    )
