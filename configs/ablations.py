"""Variations of the phantom recipe: single terms, pairs, and options, for `python -m discovr_jax.search`.

Command:   python -m discovr_jax.search --config=configs/ablations.py --workdir=runs/search --output=docs/search.jsonl
Data:      simulated on first use (1000 training, 400 validation, 600 test clips; 6 minutes and 3 GB)
Hardware:  2 CPU cores, some minutes a trial
Arguments: trial (a name in TRIALS), steps, e.g. configs/ablations.py:trial=vid,steps=600
"""

from configs import base, phantom

_ONLY = {"loss.vid": 0.0, "loss.img": 0.0, "loss.scd": 0.0}
_FINE = {"model.patch": 8, "model.num_prototypes": 512}
# Two heart beats, sampled coarsely: docs/learning.md has the untrained features of each.
_CLIPS = {"data.num_frames": 16, "data.stride": 6, "head.outputs": 256, "scd.standardise": "position"}
_GRID48 = _CLIPS | {"data.image_size": 48, "model.patch": 8, "model.num_prototypes": 512}
_GRID32 = _CLIPS | {"data.image_size": 32, "model.patch": 4, "model.num_prototypes": 512}
_WIDE32 = _CLIPS | {"data.image_size": 32, "model.patch": 8, "model.num_prototypes": 128, "batch_size": 32}

# name: keys that differ from configs/phantom.py
TRIALS = {
    "all": {},
    "vid": _ONLY | {"loss.vid": 1.0},
    "img": _ONLY | {"loss.img": 1.0},
    "scd": _ONLY | {"loss.scd": 1.0},
    "vid_img": {"loss.scd": 0.0},
    "vid_scd": {"loss.img": 0.0},
    "img_scd": {"loss.vid": 0.0},
    "fine": _FINE,
    "fine_scd": _FINE | _ONLY | {"loss.scd": 1.0},
    "outputs256": {"head.outputs": 256},
    "centre": {"dino.centering": "mean", "dino.center_momentum": 0.99},
    "zero_centre": {
        "head.outputs": 256, "dino.centering": "mean", "dino.center_momentum": 0.99, "dino.center_start": "zero"
    },
    "mask90": {"mask.ratio": 0.9, "mask.image_ratio": 0.9},
    "mask50": {"mask.ratio": 0.5, "mask.image_ratio": 0.5},
    "region": {"mask.kind": "region"},
    "position": {"scd.standardise": "position"},
    "masked_tokens": {"scd.tokens": "masked"},
    "ignore_static": {"scd.ignore_static": True},
    "lr3e-4": {"optim.lr": 3e-4},
    "lr3e-3": {"optim.lr": 3e-3},
    "imagenet": {"model.intensity": "imagenet"},
    "pixels": _ONLY | {"loss.pix": 1.0},
    "grid48": _GRID48,
    "grid48_scd": _GRID48 | _ONLY | {"loss.scd": 1.0},
    "grid48_vid": _GRID48 | _ONLY | {"loss.vid": 1.0},
    "grid48_pixels": _GRID48 | _ONLY | {"loss.pix": 1.0},
    "grid32": _GRID32,
    "grid32_scd": _GRID32 | _ONLY | {"loss.scd": 1.0},
    "wide32_scd": _WIDE32 | _ONLY | {"loss.scd": 1.0},
    "wide32_scd_frame": _WIDE32 | _ONLY | {"loss.scd": 1.0, "scd.standardise": "frame"},
}


def get_config(arg: str | None = None):
    args = base.parse_arg(arg, trial="all", steps=300)
    if args.trial not in TRIALS:
        raise ValueError(f"unknown trial {args.trial!r}; known: {', '.join(TRIALS)}")
    c = phantom.get_config()
    c.data.data_dir = "data/phantom_long"
    c.data.simulate.train, c.data.simulate.val, c.data.simulate.test = 1000, 400, 600
    c.duration = f"{args.steps} steps"
    c.update_from_flattened_dict(TRIALS[args.trial])
    return c
