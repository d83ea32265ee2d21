"""CardiacNet (A4C, pulmonary hypertension or an atrial septal defect): scores a workdir on it.

Command:   python -m discovr_jax.main --config=configs/cardiacnet.py:disease=asd --workdir=runs/adult --mode=eval
           with the arguments that the workdir was trained with; the results go to WORKDIR/eval/STEP/cardiacnet-asd
Data:      python -m discovr_jax.prepare cardiacnet --variant=asd --manual_dir=CardiacNet --data_dir=data
Hardware:  one device of 16 GiB, or CPU cores (hours unknown)
Expected:  unknown: no run. 106 (pah) and 47 (asd) test videos by CardioBench's split.
Arguments: disease (pah, asd), variant (ti, s, b, l, h, g), frames (of a clip), e.g.
           configs/cardiacnet.py:disease=asd,frames=16
"""

from discovr_jax.configs import adult, base


def get_config(arg: str | None = None):
    args = base.parse_arg(arg, variant="b", frames=64, disease="pah")
    c = adult.get_config(f"variant={args.variant},frames={args.frames}")
    c.data.dataset = c.eval.dataset = f"cardiacnet/{args.disease}"
    del c.eval.evaluators.segmentation  # the records have no masks
    return c
