"""Trained models at work: loading, predicting. Nothing here imports training."""
