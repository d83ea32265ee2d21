"""SegRWMA (A2C, A3C, A4C, abnormal motion of the wall): scores a workdir on it.

Command:   python -m discovr_jax.main --config=configs/segrwma.py --workdir=runs/adult --mode=eval
           with the arguments that the workdir was trained with; the results go to WORKDIR/eval/STEP/segrwma
Data:      python -m discovr_jax.prepare segrwma --manual_dir=SegRWMA --data_dir=data
           --split=CARDIOBENCH/data/splits/segrwma_split.csv
Hardware:  one device of 16 GiB, or CPU cores (hours unknown)
Expected:  unknown: no run. 14 of 198 patients are abnormal, so intervals are wide.
Arguments: variant (ti, s, b, l, h, g), frames (of a clip), e.g. configs/segrwma.py:variant=s,frames=16
"""

from discovr_jax.configs import adult


def get_config(arg: str | None = None):
    c = adult.get_config(arg)
    c.data.dataset = c.eval.dataset = "segrwma"
    del c.eval.evaluators.segmentation  # the records have no masks
    return c
