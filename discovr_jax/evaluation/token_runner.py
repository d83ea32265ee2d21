"""Runs the configured evaluators that need tokens."""

import importlib
import logging
from collections.abc import Mapping
from typing import Any

from discovr_jax.evaluation import interface, runner
from discovr_jax.evaluation import results as results_lib
from discovr_jax.evaluation.features.tokens import TokenContext
from discovr_jax.progress import doing

logger = logging.getLogger(__name__)


def run_token_evaluators(
    evaluation: results_lib.Evaluation, chosen: Mapping[str, Mapping[str, Any]], context: TokenContext
) -> dict[str, list[dict[str, Any]]]:
    """Runs those of the `chosen` evaluators that need tokens and enters their metrics, or why one was skipped.

    Args:
      chosen: of `runner.chosen`.

    Returns:
      {name: pictures}: what an evaluator hands on to the report, see `segmentation.run`.
    """
    pictures = {}
    for name, options in chosen.items():
        options = dict(options)
        kind = options.pop("type")
        if kind not in runner.TOKEN_TYPES:
            continue
        module = importlib.import_module(f"discovr_jax.evaluation.evaluators.{kind}")
        try:
            with doing(f"scoring {name}", logger.info):
                pictures[name] = module.run(evaluation, name, context, **options) or []
        except interface.Skip as skip:
            results_lib.skip(evaluation, name, skip)
    return pictures
