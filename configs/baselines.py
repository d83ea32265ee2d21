"""What DISCOVR is compared with: the same data, encoder, steps and evaluation under other objectives.

Command:   python -m discovr_jax.main --config=configs/baselines.py:method=videomae,recipe=adult --workdir=runs/videomae
           python -m discovr_jax.main --mode=compare --workdirs=runs/adult,runs/videomae
Data:      as the recipe's config
Hardware:  as the recipe's config, or less: a term that is left out is not computed
Arguments: method (a name in METHODS), recipe (adult, phantom or phantom_long)

Random weights and pixels stand in every evaluation; two autoencoders that find anomalies without our encoder join
with --config.eval.evaluators.reconstruction.steps=500.
"""

import logging

from discovr_jax.configs import adult, base, phantom

_RECIPES = {
    "adult": adult.get_config,
    "phantom": phantom.get_config,
    "phantom_long": lambda: phantom.get_config("long"),
}
_ONLY = {"loss.vid": 0.0, "loss.img": 0.0, "loss.scd": 0.0, "loss.pix": 0.0, "loss.phase": 0.0, "loss.amplitude": 0.0}
_PHASE = {
    "loss.phase": 1.0,
    "views.crop": 0.6, "views.gamma": 0.35, "views.gain": 0.2, "views.attenuation": 0.4, "views.noise": 0.05,
}  # fmt: skip
_PAPER = _ONLY | {"loss.vid": 1.0, "loss.img": 1.0, "loss.scd": 1.0}

# name: keys that differ from the recipe
METHODS = {
    "recipe": {},  # as it stands
    "discovr": _PAPER,  # the paper's three terms at equal weights
    "discovr_phase": _PAPER | _PHASE,
    "phase_only": _ONLY | _PHASE,
    "video_only": _ONLY | {"loss.vid": 1.0},
    "image_video": _PAPER | {"loss.scd": 0.0},
    "scd_only": _ONLY | {"loss.scd": 1.0},
    # Tokens of different positions, as the public code pairs them.
    "reference_pairing": _PAPER | {"scd.pairing": "reference"},
    "videomae": _ONLY | {"loss.pix": 1.0},
    # SIGMA clusters masked tokens and a target network's tokens; here that network is the untrained image teacher.
    "sigma_like": _ONLY | {"loss.scd": 1.0, "scd.tokens": "masked"},
}

_OLD_NAMES = {"released_pairing": "reference_pairing"}


def get_config(arg: str | None = None):
    args = base.parse_arg(arg, method="recipe", recipe="phantom")
    if new := _OLD_NAMES.get(args.method):
        logging.getLogger(__name__).warning("method %s is called %s now; the old name still works", args.method, new)
        args.method = new
    for name, value, known in (("method", args.method, METHODS), ("recipe", args.recipe, _RECIPES)):
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
    c = _RECIPES[args.recipe]()
    c.update_from_flattened_dict(METHODS[args.method])
    return c
