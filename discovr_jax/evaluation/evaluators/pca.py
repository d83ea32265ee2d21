"""Width-matched linear heads: probe and ridge regression on equally many principal components of every encoder.

A wide feature has more ways to fit than a narrow one. Components are those of the standardised training features, and
keep their variances.
"""

import numpy as np

from discovr_jax.errors import ConfigError
from discovr_jax.evaluation import interface

OF_RECORDS = True  # `parts` looks at how many training videos there are


def parts(name: str, *, fields, components: int = 512, field: str = "ef") -> list[interface.Part]:
    """A probe and a regression, metrics of the probe and of the regression under their names.

    Args:
      fields: {split: {column: [videos]}}.
      components: that are read; field: the measurement of the regression.

    Raises:
      interface.NotSetUp: no more training videos than components: nothing would differ from all of them.
      ConfigError: no component.
    """
    if components < 1:
        raise ConfigError(f"{name} needs components >= 1, got {components}")
    videos = int(np.size(fields["train"]["id"]))
    if videos <= components:
        raise interface.NotSetUp(
            f"off where it changes nothing: {videos} training videos have fewer than {components} principal "
            f"components (config.eval.evaluators.{name}.components)"
        )
    classes, measured = ("macro_f1", "balanced_accuracy", "auroc"), ("mae", "rmse", "r2")
    heads = (("probe", "label", classes), ("regression", field, measured))
    return [
        interface.Part(
            f"{name}_{target}", name, kind, target, {metric: metric for metric in metrics}, {"components": components}
        )
        for kind, target, metrics in heads
    ]
