"""phantom.py:smoke with one evaluator, for the short form."""

from discovr_jax.configs import phantom


def get_config():
    c = phantom.get_config("smoke")
    for name in set(c.eval.evaluators) - {"knn"}:
        del c.eval.evaluators[name]
    return c
