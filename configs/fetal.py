"""DISCOVR on fetal hearts in a folder of your own (as FetalEcho1 and FetalEcho2), the recipe of adult.py.

Command:   python -m discovr_jax.main --config=configs/fetal.py --workdir=runs/fetal
Data:      python -m discovr_jax.prepare echo_folder --manual_dir=VIDEOS --csv=LIST.csv --private_dir=PRIVATE
           --data_dir=data --frame_size=224, where LIST.csv has the columns Path and class (Normal, Abnormal), if known
           also patient_id and split. The paper's sets are private.
Hardware:  as adult.py: written for 8 devices with 16 GiB or more (16 clips each). Hours unknown: no run of ours at
           full length.
Expected:  the paper reports kNN F1 61.79 (FetalEcho1) and 56.69 (FetalEcho2), linear probe F1 63.59 (FetalEcho2). What
           to expect of other hospitals' videos is unknown. Abnormal is what the CSV calls so (source_label).
Arguments: variant (ti, s, b, l, h, g), frames (of a clip), e.g. configs/fetal.py:variant=s,frames=16
"""

from discovr_jax.configs import adult


def get_config(arg: str | None = None):
    c = adult.get_config(arg)
    c.data.dataset = "echo_folder"
    c.data.frame_size = 224  # the paper's videos are of that size; the loader crops, then resizes to image_size
    del c.eval.evaluators.segmentation  # a folder has no masks
    return c
