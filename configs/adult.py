"""DISCOVR on EchoNet-Dynamic, the paper's recipe.

Command:   python -m discovr_jax.main --config=configs/adult.py --workdir=runs/adult
Data:      python -m discovr_jax.prepare echonet_dynamic --manual_dir=EchoNet-Dynamic --data_dir=data
Hardware:  written for 8 devices with 16 GiB or more (16 clips each); not yet run at full length by us.
Expected:  the paper reports kNN F1 61.45, linear probe F1 77.63, LVEF MAE 7.79 (frozen).
Arguments: variant (ti, s, b, l, h, g), frames (of a clip), e.g. configs/adult.py:variant=s,frames=16
"""

from discovr_jax.configs import base


def get_config(arg: str | None = None):
    args = base.parse_arg(arg, variant="b", frames=64)
    c = base.get_config()
    c.model.variant = args.variant
    c.data.num_frames = args.frames
    if args.variant in ("ti", "s"):
        c.head.init = "fan_in"  # at these widths normal(0.02) leaves the head almost linear, its outputs alike
    return c
