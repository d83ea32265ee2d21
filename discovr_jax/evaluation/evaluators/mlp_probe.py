"""The label by an MLP (`mlp`) on a frozen pooled feature; both classes weigh the same in its loss."""

import functools

from discovr_jax.evaluation.evaluators import mlp, probe, targets

TARGET = probe.TARGET
METRICS = probe.METRICS
SELECT_BY, LARGER_IS_BETTER = probe.SELECT_BY, probe.LARGER_IS_BETTER
require = probe.require
# Arguments and result as of `mlp.trainings`.
evaluate = functools.partial(mlp.trainings, field=targets.LABEL)
