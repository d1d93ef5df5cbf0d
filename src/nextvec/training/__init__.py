"""Training: one loop, its configuration, and everything that lets a run be trusted, stopped and resumed."""
