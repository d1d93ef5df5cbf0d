"""The options that every architecture has."""

from __future__ import annotations

from dataclasses import dataclass

from nextvec.models.heads import HeadName
from nextvec.models.residual import ResidualName

MAX_SIZE = 2**16  # of any width or count in a configuration: a file from elsewhere may say anything


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What every architecture's configuration has. The sizes themselves come from a preset file.

    Attributes:
        d_embed: D.
        head: from the hidden state to the vector (`nextvec.models.heads`).
        residual: the baseline that the head's output is added to (`nextvec.models.residual`).
        residual_context: c of the residuals `weights` and `ridge`: how many of the last vectors they read.
        gate: multiply what the head says by a number from 0 to 2 that the hidden state decides at every
            position, 1 at first; needs a residual.
        standardise: the network sees vectors less their median over their spread (`Standardiser`).
        horizons: K, how many of the vectors to come are predicted, each with its own head.
        conditional: a query vector, such as a prompt's, may be given to be written towards.
        confidence: say how likely a given vector is the continuation (`continuation`).
    """

    d_embed: int
    head: HeadName = "linear"
    residual: ResidualName = "none"
    residual_context: int = 5
    gate: bool = False
    standardise: bool = False
    horizons: int = 1
    conditional: bool = False
    confidence: bool = False

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if type(value) is int and not 1 <= value <= MAX_SIZE:
                raise ValueError(f"{name} = {value}: must be 1 to {MAX_SIZE}")
        if not 0.0 <= getattr(self, "dropout", 0.0) < 1.0:
            raise ValueError("dropout must be in [0, 1)")
        if self.gate and self.residual == "none":
            raise ValueError("gate = true needs a residual to fall back on")
