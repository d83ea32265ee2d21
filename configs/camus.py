"""Evaluation on CAMUS (500 patients, half a heart cycle of 2CH and 4CH): whatever workdir is given is scored on it.

Command:   python -m discovr_jax.main --config=configs/camus.py --workdir=runs/adult --mode=eval
           with the arguments that the workdir was trained with; the results go to WORKDIR/eval/STEP/camus.
           Without --mode=eval it trains on the 400 patients of CAMUS's training split instead.
Data:      python -m discovr_jax.prepare camus --manual_dir=CAMUS_public --data_dir=data
Hardware:  one device of 16 GiB, or CPU cores. Hours unknown: no run of ours on the real set.
Expected:  unknown for these metrics; the paper uses CAMUS for segmentation only (Dice 0.844, frozen with a linear
           layer). 50 patients in the test split: wide intervals. A video has about 19 frames, from ED to ES, of which
           every third is seen, as in training; the rest of the clip's 64 repeats the last.
Arguments: variant (ti, s, b, l, h, g), frames (of a clip), e.g. configs/camus.py:variant=s,frames=16
"""

from discovr_jax.configs import adult


def get_config(arg: str | None = None):
    c = adult.get_config(arg)
    c.data.dataset = c.eval.dataset = "camus"
    return c
