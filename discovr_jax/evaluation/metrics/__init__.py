"""Metrics of videos and of masks, and their confidence intervals."""
