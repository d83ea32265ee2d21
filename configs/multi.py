"""DISCOVR on several datasets at once, the recipe of adult.py; clips are drawn by weight.

Command:   python -m discovr_jax.main --config=configs/multi.py --workdir=runs/multi
           then, for the other sets, --mode=eval with e.g. --config.eval.dataset=rvenet
Data:      the commands of adult.py, pediatric.py and rvenet.py, into one data_dir; all at frame_size 112
Hardware:  as adult.py: written for 8 devices with 16 GiB or more (16 clips each). Hours unknown: no run of ours at
           full length.
Expected:  unknown. The published weights come from three sets of adult and paediatric hearts; which, how mixed, and
           their values on each are not published.
Arguments: variant, frames as in adult.py; weights (0 leaves a set out): adult, pediatric, lvh, rvenet, camus, fetal,
           e.g. configs/multi.py:adult=2,rvenet=0,fetal=0.5

An epoch is as many clips as the sets together hold videos to train on. The weights alone say how often each set comes
up: clips alternate in that proportion, so with equal weights the videos of a small set are seen more often than those
of a large one. Each set has its own rule for abnormal videos (facts.toml in its folder of tfds_builders).
"""

from discovr_jax.configs import adult, base

DATASETS = {
    "adult": "echonet_dynamic",
    "pediatric": "echonet_pediatric",
    "lvh": "echonet_lvh",
    "rvenet": "rvenet",
    "camus": "camus",
    "fetal": "echo_folder",
}


def get_config(arg: str | None = None):
    none = dict.fromkeys(DATASETS, 0.0)
    args = base.parse_arg(arg, variant="b", frames=64, **none | {"adult": 1.0, "pediatric": 1.0, "rvenet": 1.0})
    c = adult.get_config(f"variant={args.variant},frames={args.frames}")
    c.data.dataset, c.eval.dataset = "", "echonet_dynamic"
    for name, dataset in DATASETS.items():
        if args[name]:
            c.data.mixture[dataset] = args[name]
    # Each scores the sets that have its measurement and is skipped, with the reason, on the others.
    for field in ("rvef", "ivsd", "lvpwd"):
        c.eval.evaluators[field] = base.regression(field)
    return c
