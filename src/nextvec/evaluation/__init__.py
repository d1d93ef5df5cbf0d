"""Evaluation: predictors and baselines on documents that none of them has seen."""
