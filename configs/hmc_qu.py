"""HMC-QU (A4C and A2C, infarction): scores a workdir on it.

Command:   python -m discovr_jax.main --config=configs/hmc_qu.py --workdir=runs/adult --mode=eval
           with the arguments that the workdir was trained with; the results go to WORKDIR/eval/STEP/hmc_qu
Data:      python -m discovr_jax.prepare hmc_qu --manual_dir=HMC_QU --data_dir=data
Hardware:  one device of 16 GiB, or CPU cores (hours unknown)
Expected:  unknown: no run. Abnormal is an infarction of any segment that the view shows. 50 test
           videos by CardioBench's split.
Arguments: variant (ti, s, b, l, h, g), frames (of a clip), e.g. configs/hmc_qu.py:variant=s,frames=16
"""

from discovr_jax.configs import adult


def get_config(arg: str | None = None):
    c = adult.get_config(arg)
    c.data.dataset = c.eval.dataset = "hmc_qu"
    del c.eval.evaluators.segmentation  # the records have no masks
    return c
