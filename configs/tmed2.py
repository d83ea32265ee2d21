"""TMED-2 (stills with their view and the severity of aortic stenosis): scores a workdir on it.

Command:   python -m discovr_jax.main --config=configs/tmed2.py --workdir=runs/adult --mode=eval
           with the arguments that the workdir was trained with; the results go to WORKDIR/eval/STEP/tmed2. It does not
           train: nothing moves in a still.
Data:      python -m discovr_jax.prepare tmed2 --manual_dir=TMED2/approved_users_only --data_dir=data
Hardware:  one device of 16 GiB, or CPU cores (hours unknown)
Expected:  unknown. Abnormal is any stenosis, as CardioBench has it (94 of 119 test studies). A clip is one frame,
           repeated; an encoder of videos has not seen such clips.
Arguments: variant (ti, s, b, l, h, g), frames (of a clip), e.g. configs/tmed2.py:variant=s,frames=16
"""

from discovr_jax.configs import adult


def get_config(arg: str | None = None):
    c = adult.get_config(arg)
    c.data.dataset = c.eval.dataset = "tmed2"
    c.eval.clips = 1  # all would be the same
    del c.eval.evaluators.segmentation  # the dataset has no masks
    return c
