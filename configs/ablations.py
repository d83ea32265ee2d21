"""Variations of the phantom recipe: single terms, pairs, and options, for `python -m discovr_jax.search`.

Command:   python -m discovr_jax.search --config=configs/ablations.py --workdir=runs/search --output=search.jsonl
Data:      simulated on first use (1000 training, 400 validation, 2000 test clips; 10 minutes and 5 GB)
Hardware:  2 CPU cores, some minutes a trial
Arguments: trial (a name in TRIALS), steps, e.g. configs/ablations.py:trial=vid,steps=600
"""

from discovr_jax.configs import base, phantom

_ONLY = {"loss.vid": 0.0, "loss.img": 0.0, "loss.scd": 0.0, "loss.phase": 0.0, "loss.amplitude": 0.0}

# name: keys that differ from configs/phantom.py:long
TRIALS = {
    "all": {},
    "phase": _ONLY | {"loss.phase": 1.0},
    "vid": _ONLY | {"loss.vid": 1.0},
    "img": _ONLY | {"loss.img": 1.0},
    "scd": _ONLY | {"loss.scd": 1.0},
    "jepa": _ONLY | {
        "loss.jepa": 1.0, "views.positive": "other_beat", "mask.video_views": 3, "mask.region_fraction": 0.75
    },
    "phase_whole_frame": {"views.crop": 1.0},
    "phase_same_brightness": {"views.gamma": 0.0, "views.gain": 0.0, "views.attenuation": 0.0},
    "phase16": {"phase.frames": 16},
    "pixels": _ONLY | {"loss.pix": 1.0},
    "vid_img": _ONLY | {"loss.vid": 1.0, "loss.img": 1.0},
    "with_vid": {"loss.vid": 1.0},
    "with_img": {"loss.img": 1.0},
    "every_term": {"loss.vid": 1.0, "loss.img": 1.0},
    "without_amplitude": {"loss.amplitude": 0.0},
    "discovr": {"loss.vid": 1.0, "loss.img": 1.0, "loss.phase": 0.0, "loss.amplitude": 0.0},
    "prototypes64": {"model.num_prototypes": 64},
    "prototypes512": {"model.num_prototypes": 512},
    "frame": {"scd.standardise": "frame", "model.num_prototypes": 512},
    "masked_tokens": {"scd.tokens": "masked"},
    "ignore_static": {"scd.ignore_static": True},
    "outputs256": {"head.outputs": 256},
    "centre": {"dino.centering": "mean", "dino.center_momentum": 0.99},
    "zero_centre": {
        "head.outputs": 256, "dino.centering": "mean", "dino.center_momentum": 0.99, "dino.center_start": "zero"
    },
    "two_beats": {"data.stride": 6},
    "mask75": {"mask.ratio": 0.75},
    "mask90": {"mask.ratio": 0.9, "mask.image_ratio": 0.9},
    "tube_views": {"mask.kind": "tube", "mask.video_views": 2, "mask.image_views": 2},
    "lr3e-4": {"optim.lr": 3e-4},
    "lr3e-3": {"optim.lr": 3e-3},
    "image_rate003": {"optim.image_lr_scale": 0.03},
    "momentum_to_1": {"ema.momentum": (0.99, 1.0)},
    "flattened": {"model.positions": "1d"},
    "imagenet": {"model.input_normalisation": "imagenet"},
    "coarse": {"data.image_size": 64, "data.num_frames": 32, "data.stride": 3, "model.patch": 16},
    "small": {"data.image_size": 32, "model.patch": 4},
    "batch32": {"batch_size": 32},
}


def get_config(arg: str | None = None):
    args = base.parse_arg(arg, trial="all", steps=300)
    if args.trial not in TRIALS:
        raise ValueError(f"unknown trial {args.trial!r}; known: {', '.join(TRIALS)}")
    c = phantom.get_config("long")
    c.duration = f"{args.steps} steps"
    c.update_from_flattened_dict(TRIALS[args.trial])
    return c
