"""Metrics of the DISCOVR paper (NeurIPS 2025, arXiv 2506.11777), to stand beside ours; shares of 1, not percent."""

from discovr_jax.data import facts


def published_metrics(dataset: str) -> dict[str, float]:
    """What the paper reports on a dataset, {FAMILY/METRIC: value}; empty where it does not."""
    result = facts.of(dataset)
    return result.published if result else {}
