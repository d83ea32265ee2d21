"""DISCOVR on RVENet (right ventricle, apical four-chamber view), the recipe of adult.py.

Command:   python -m discovr_jax.main --config=configs/rvenet.py --workdir=runs/rvenet
Data:      python -m discovr_jax.prepare rvenet --manual_dir=RVENet --data_dir=data
Hardware:  as adult.py: written for 8 devices with 16 GiB or more (16 clips each). Hours unknown: no run of ours at
           full length.
Expected:  the paper reports kNN F1 53.88 and linear probe F1 62.65, by a rule and a split that are not published. Here
           abnormal means rvef <= 45, as the dataset's authors have it. RVEF error: unknown.
Arguments: variant (ti, s, b, l, h, g), frames (of a clip), e.g. configs/rvenet.py:variant=s,frames=16
"""

from discovr_jax.configs import adult, base


def get_config(arg: str | None = None):
    c = adult.get_config(arg)
    c.data.dataset = "rvenet"
    base.measure(c, rvef="rvef")
    del c.eval.evaluators.segmentation  # the dataset has no masks
    return c
