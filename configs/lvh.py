"""DISCOVR on EchoNet-LVH (parasternal long axis), the recipe of adult.py; walls are measured as well as classified.

Command:   python -m discovr_jax.main --config=configs/lvh.py --workdir=runs/lvh
Data:      python -m discovr_jax.prepare echonet_lvh --manual_dir=EchoNet-LVH --data_dir=data
Hardware:  as adult.py: written for 8 devices with 16 GiB or more (16 clips each). Hours unknown: no run of ours at
           full length.
Expected:  unknown. The paper reports kNN F1 54.63 on "EchoPediatric-LVH", without saying whether that is
           EchoNet-Pediatric, EchoNet-LVH or both. The dataset has no label of hypertrophy: abnormal means that
           a wall measures 1.3 cm or more (wall_cm >= 1.3).
Arguments: variant (ti, s, b, l, h, g), frames (of a clip), e.g. configs/lvh.py:variant=s,frames=16
"""

from discovr_jax.configs import adult, base


def get_config(arg: str | None = None):
    c = adult.get_config(arg)
    c.data.dataset = "echonet_lvh"
    base.measure(c, ivsd="ivsd", lvidd="lvidd", lvpwd="lvpwd")
    del c.eval.evaluators.segmentation  # the dataset has no masks
    return c
