"""How fast a model predicts, and in how much memory, by every engine that can compute it."""
