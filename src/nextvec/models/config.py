"""The options that every architecture has."""

from __future__ import annotations

from dataclasses import dataclass

from nextvec.config import Bounds, Checked
from nextvec.models.heads import HeadName
from nextvec.models.residual import ResidualName

MAX_SIZE = 2**16  # of any width or count in a configuration: a file from elsewhere may say anything
SIZES = Bounds(least=1, most=MAX_SIZE)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Checked):
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
        averages: the backbone reads each vector together with exponential averages of what came before,
            through a learned map that starts at zero (`InputAverages`).
        resampled: how many of the trained model's misses on validation windows are kept, for `sample` to add
            to its point (`Misses`), which is brought to the length that misses least there; for models
            without a distribution of their own.
        ranking: give a query for ranking too (`Prediction.query`), with a base and a head of its own.
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
    averages: bool = False
    ranking: bool = False
    resampled: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in vars(self).items():  # every whole number of an architecture is a size or a count
            if type(value) is int and not SIZES.hold(value):
                raise ValueError(f"{name} is {value}; it must be {SIZES}")
        if self.gate and self.residual == "none":
            raise ValueError("gate = true needs a residual to fall back on")
        for name in ("ranking", "resampled"):
            if getattr(self, name) and self.head == "energy":
                message = (
                    "needs a head that gives a point: choose another than 'energy', or --recipe residual"
                )
                raise ValueError(f"{name} {message}")
