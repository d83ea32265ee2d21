"""Repeated, grouped, stratified k-fold cross-validation of any features on a small archive with any label.

`archive` joins labels and feature files -> `folds` -> `probes` in each fold -> `run` -> `summary`: metrics, intervals,
paired differences, tables. The command is `discovr_jax.cross_validate`.
"""
