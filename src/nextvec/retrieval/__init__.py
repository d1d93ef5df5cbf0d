"""Passages that a prediction points at: indexes, ways of asking them, and re-ranking."""
