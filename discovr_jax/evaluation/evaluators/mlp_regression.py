"""A measurement by an MLP (`mlp`) on a frozen pooled feature."""

import functools

from discovr_jax.evaluation.evaluators import mlp, regression

TARGET = regression.TARGET
METRICS = regression.METRICS
SELECT_BY, LARGER_IS_BETTER = regression.SELECT_BY, regression.LARGER_IS_BETTER
require = regression.require
# Arguments and result as of `mlp.trainings`.
evaluate = functools.partial(mlp.trainings, field=TARGET)
