"""DISCOVR on MIMIC-IV-ECHO (whole studies, all views), the recipe of adult.py, on all clips.

Command:   python -m discovr_jax.main --config=configs/mimic.py --workdir=runs/mimic
           and, for a set with labels, the same with --mode=eval --config.eval.dataset=echonet_dynamic
Data:      python -m discovr_jax.prepare mimic_iv_echo --manual_dir=MIMIC-IV-ECHO --private_dir=PRIVATE --data_dir=data
Hardware:  as adult.py: written for 8 devices with 16 GiB or more (16 clips each). Hours unknown: no run of ours at
           full length.
Expected:  unknown: no run. The EF is that of the report, on every clip of a study, whatever its view shows.
Arguments: variant (ti, s, b, l, h, g), frames (of a clip), e.g. configs/mimic.py:variant=s,frames=16
"""

from discovr_jax.configs import adult


def get_config(arg: str | None = None):
    c = adult.get_config(arg)
    c.data.dataset = "mimic_iv_echo"
    c.data.train_filter = "all"  # many studies have no EF that says whether they are normal
    del c.eval.evaluators.segmentation  # the dataset has no masks
    return c
