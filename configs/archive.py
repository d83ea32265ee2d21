"""DISCOVR on a folder of your own videos, on one small GPU.

Command:   python -m discovr_jax.main --config=configs/archive.py:gigabytes=16 --workdir=runs/archive
Data:      python -m discovr_jax.prepare echo_folder --manual_dir=VIDEOS --data_dir=data --private_dir=private
Hardware:  one GPU of 8, 16 or 24 GB, Ampere or newer. Computed (docs/tutorials/own_archive.md), not tried on any.
Expected:  unknown: no run on a real archive. The settings for small batches come from simulated hearts.
Arguments: gigabytes (8, 16, 24), the memory of the GPU; of another size take the next smaller one
"""

from discovr_jax.configs import adult, base

# Memory of the GPU in GB: ViT size, clips per step.
SIZES = {8: ("ti", 8), 16: ("s", 16), 24: ("b", 16)}


def get_config(arg: str | None = None):
    args = base.parse_arg(arg, gigabytes=8)
    if args.gigabytes not in SIZES:
        raise ValueError(f"config argument gigabytes={args.gigabytes} must be one of {', '.join(map(str, SIZES))}")
    variant, clips = SIZES[args.gigabytes]
    c = adult.get_config(f"variant={variant}")
    c.batch_size = clips
    c.duration = "100 epochs"
    c.data.dataset = "echo_folder"
    c.data.train_filter = "all"  # labels are not needed; "normal" needs them
    c.data.target_fps = 16.0  # frame rates of an archive differ: so all clips show 4 s, and `extract` knows the rate
    # A small batch: no centre that has to follow it, a teacher that stays near its student, an absolute learning rate.
    c.dino.centering = "sinkhorn"
    c.ema.momentum = (0.99, 1.0)
    c.optim.lr, c.optim.warmup, c.optim.clip = 5e-4, "10 percent", 3.0
    c.checkpoint.every = "500 steps"
    del c.eval.evaluators.segmentation  # a folder has no masks
    return c
