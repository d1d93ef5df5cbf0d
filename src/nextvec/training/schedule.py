"""Learning rates: a linear warm-up, then constant, cosine, or lower at each plateau of the validation
loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from nextvec.training.config import OptimConfig

PLATEAU_THRESHOLD = 1e-4
"""Relative improvement that counts, as in torch.optim.lr_scheduler.ReduceLROnPlateau."""


@dataclass
class Plateau:
    """The memory of the plateau schedule: the best loss, the epochs since, and the factor reached."""

    factor: float = 1.0
    best: float | None = None
    bad_epochs: int = 0

    def update(self, loss: float, config: OptimConfig) -> None:
        """Take in an epoch's validation loss."""
        if self.best is None or loss < self.best * (1 - PLATEAU_THRESHOLD):
            self.best, self.bad_epochs = loss, 0
        else:
            self.bad_epochs += 1
        if self.bad_epochs > config.plateau_patience:
            self.factor, self.bad_epochs = self.factor * config.plateau_factor, 0


def learning_rate(config: OptimConfig, update: float, total: int, plateau: Plateau) -> float:
    """The rate of update number `update` (from 0; not whole where the clock decides) out of `total`."""
    warmup = round(config.warmup * total)
    if update < warmup:
        return config.lr * (update + 1) / warmup
    if config.schedule == "cosine":
        progress = min((update - warmup) / max(total - warmup, 1), 1.0)
        return config.lr * 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.lr * plateau.factor if config.schedule == "plateau" else config.lr
