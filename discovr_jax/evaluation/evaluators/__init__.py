"""One file per type of evaluator."""
