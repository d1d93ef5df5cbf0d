"""What a run is made of. Build it with `nextvec.training.recipes.make_config`; it is saved with the run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from nextvec.data.sampling import SequenceShape
from nextvec.data.splits import SplitConfig


@dataclass(frozen=True)
class ModelConfig:
    """Which network: an architecture, one of its presets, and options that override the preset's.

    Attributes:
        scaling: how the network sees the vectors, whatever the encoder's scale. "norm": about 1 long (the
            brief's own unit vectors stay as they are). "component": their single numbers about 1 in size, as
            initial weights, positions and layer norms expect them.
    """

    name: str
    preset: str = "small"
    options: dict[str, Any] = field(default_factory=dict)
    scaling: Literal["norm", "component"] = "component"


@dataclass(frozen=True)
class DataConfig:
    """Which documents, and how they are cut (`nextvec.data.sampling`).

    Attributes:
        context: chunks read at most before a target.
        min_context: chunks read at least; equal to `context` it gives windows with one loss at their end.
        horizon: how far ahead the target stands; 1 is the next chunk.
        sources: only documents of these; all when empty.
        split: how documents are divided.
        workers: processes that gather batches ahead. The result is the same for any number.
    """

    context: int = 32
    min_context: int = 1
    horizon: int = 1
    sources: tuple[str, ...] = ()
    split: SplitConfig = field(default_factory=SplitConfig)
    workers: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.min_context <= self.context:
            raise ValueError(f"min_context is {self.min_context}; it must be between 1 and context")
        at_least(self, horizon=1, workers=0)

    @property
    def shape(self) -> SequenceShape:
        """How documents are cut."""
        return SequenceShape(self.context, self.min_context, self.horizon)


@dataclass(frozen=True)
class LossConfig:
    """The weight of each term (`nextvec.objectives`). All zero is refused."""

    mse: float = 1.0
    cosine: float = 0.0

    def weights(self) -> dict[str, float]:
        """Name of a term -> weight."""
        return asdict(self)


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and how long it runs.

    Attributes:
        lr: the highest learning rate.
        weight_decay: decoupled decay of the parameters that `decay` names.
        decay: "all" parameters, or only "matrices" (biases and norm scales have one dimension and go free).
        batch_size: full stretches in a batch; batches of shorter ones hold more (`batch_stretches`).
        epochs: passes over the training targets.
        max_updates: stop after so many updates, whatever `epochs` says; 0 sets no cap.
        schedule: after the warm-up, "constant", "cosine" down to 0 at the last update, or "plateau": times
            `plateau_factor` when the validation loss has not improved for more than `plateau_patience`
            epochs.
        warmup: share of all updates over which the rate rises from 0.
        clip: largest gradient norm; 0 clips nothing.
        patience: stop after so many epochs without a better validation cosine; 0 never stops early.
    """

    lr: float = 1e-3
    weight_decay: float = 0.01
    decay: Literal["all", "matrices"] = "matrices"
    batch_size: int = 32
    epochs: int = 20
    max_updates: int = 0
    schedule: Literal["constant", "cosine", "plateau"] = "cosine"
    plateau_factor: float = 0.5
    plateau_patience: int = 3
    warmup: float = 0.05
    clip: float = 1.0
    patience: int = 5

    def __post_init__(self) -> None:
        at_least(self, batch_size=1, epochs=1, max_updates=0, plateau_patience=0, patience=0)
        at_least(self, weight_decay=0, clip=0)
        if not 0 < self.lr < float("inf"):
            raise ValueError(f"lr is {self.lr}; it must be above 0")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is {self.warmup}; it is a share of all updates, in [0, 1)")
        if not 0 < self.plateau_factor < 1:
            raise ValueError(f"plateau_factor is {self.plateau_factor}; it must be between 0 and 1")


@dataclass(frozen=True)
class RuntimeConfig:
    """Where and how it runs.

    Attributes:
        device: "auto" takes CUDA, then MPS, then the CPU.
        precision: "auto" takes bfloat16 (autocast) where the processor computes faster in it.
        seed: of the initial weights, the order of the batches and the dropout.
        threads: of torch on the CPU; 0 leaves torch's own number.
        checkpoint_every_s: seconds between checkpoints inside an epoch (there is one after each epoch
            anyway).
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = 0
    threads: int = 0
    checkpoint_every_s: float = 300.0

    def __post_init__(self) -> None:
        at_least(self, seed=0, threads=0, checkpoint_every_s=0)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run gives, in sections."""

    model: ModelConfig
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


def at_least(config: object, **limits: float) -> None:
    """Raise ValueError when a field lies below its limit (or is NaN)."""
    for name, limit in limits.items():
        value = getattr(config, name)
        if not value >= limit:
            raise ValueError(f"{name} is {value}; it must be at least {limit}")
