"""CAMUS (500 patients, half a heart cycle of 2CH and 4CH): scores a workdir on it, or trains a small model on it.

Command:   python -m discovr_jax.main --config=configs/camus.py --workdir=runs/adult --mode=eval
           with the arguments that the workdir was trained with; the results go to WORKDIR/eval/STEP/camus.
           Without --mode=eval it trains on the 400 patients of CAMUS's training split instead.
           python -m discovr_jax.main --config=configs/camus.py:small --workdir=runs/camus
Data:      python -m discovr_jax.prepare camus --manual_dir=CAMUS_public --data_dir=data
Hardware:  one device of 16 GiB, or CPU cores (hours unknown); small: 2 CPU cores
Expected:  unknown for the whole set; the paper uses CAMUS for segmentation only (Dice 0.844, frozen with a linear
           layer). 50 patients in the test split: wide intervals. A video has about 19 frames, from ED to ES, of which
           every third is seen, as in training; the rest of the clip's 64 repeats the last.
           small: after 600 steps kNN AUROC 0.74 to 0.79 by folds over 499 patients, untrained 0.67
           (docs/notes/real_hearts.md)
Arguments: variant (ti, s, b, l, h, g), frames (of a clip), e.g. configs/camus.py:variant=s,frames=16; small (the
           phantom's small model on end-diastole and end-systole alone)
"""

from discovr_jax.configs import adult, base, phantom


def get_config(arg: str | None = None):
    args = base.parse_arg(arg, variant="b", frames=64, small=False)
    if args.small:
        if args.variant != "b" or args.frames != 64:
            raise ValueError("config argument small excludes variant and frames: it has sizes of its own")
        return small()
    c = adult.get_config(f"variant={args.variant},frames={args.frames}")
    c.data.dataset = c.eval.dataset = "camus"
    return c


def small():
    """The phantom's recipe on clips of two frames, end-diastole and end-systole."""
    c = phantom.get_config()
    c.batch_size = 16
    c.duration = "1200 steps"
    c.data.dataset = c.eval.dataset = "camus"
    c.data.data_dir = "data"
    c.data.simulate.train = c.data.simulate.val = c.data.simulate.test = 0
    c.data.image_size = 112
    c.data.num_frames, c.data.stride, c.data.stride_jitter = 2, 1, 0.0
    c.phase.frames = 2
    c.eval.clips = 1
    c.eval.map_side = 7
    return c
