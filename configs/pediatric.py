"""DISCOVR on EchoNet-Pediatric, the recipe of adult.py on children's hearts: apical and short-axis views together.

Command:   python -m discovr_jax.main --config=configs/pediatric.py --workdir=runs/pediatric
Data:      python -m discovr_jax.prepare echonet_pediatric --manual_dir=pediatric_echo_avi --data_dir=data
           (for one view also with --variant=a4c or --variant=psax)
Hardware:  as adult.py: written for 8 devices with 16 GiB or more (16 clips each). Hours unknown: no run of ours at
           full length.
Expected:  unknown. The paper reports kNN F1 54.63 on "EchoPediatric-LVH", without saying whether that is
           EchoNet-Pediatric, EchoNet-LVH or both. Abnormal means ef < 50 here; the paper's rule is not published.
Arguments: variant (ti, s, b, l, h, g), frames (of a clip), view ("", a4c, psax), e.g. configs/pediatric.py:view=a4c
"""

from discovr_jax.configs import adult, base


def get_config(arg: str | None = None):
    args = base.parse_arg(arg, variant="b", frames=64, view="")
    if args.view not in ("", "a4c", "psax"):
        raise ValueError(f"config argument view={args.view!r} must be a4c, psax, or left out for both")
    c = adult.get_config(f"variant={args.variant},frames={args.frames}")
    c.data.dataset = f"echonet_pediatric/{args.view}" if args.view else "echonet_pediatric"
    return c
