"""What a training of the inverter is made of; saved with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from nextvec.config import at_least
from nextvec.data.splits import SplitConfig
from nextvec.decoding.inverter.network import NetworkConfig
from nextvec.decoding.inverter.tokens import BYTES, Kind
from nextvec.hardware import RuntimeConfig

MAX_LENGTH = 4096
MAX_VOCABULARY = 2**17


@dataclass(frozen=True)
class TokensConfig:
    """How text is cut into tokens.

    Attributes:
        kind: "bpe", learned from the training texts, or "bytes".
        vocabulary: tokens at most of kind "bpe", the end of a text among them.
        length: tokens of a text at most; longer ones are cut. 0 takes what 99 of 100 training texts fit in.
    """

    kind: Kind = "bpe"
    vocabulary: int = 8192
    length: int = 0

    def __post_init__(self) -> None:
        if not BYTES < self.vocabulary <= MAX_VOCABULARY:
            raise ValueError(
                f"vocabulary is {self.vocabulary}; it must be from {BYTES + 1} to {MAX_VOCABULARY}"
            )
        if not 0 <= self.length <= MAX_LENGTH:
            raise ValueError(f"length is {self.length}; it must be from 0 to {MAX_LENGTH}")


@dataclass(frozen=True)
class InverterDataConfig:
    """Which documents.

    Attributes:
        sources: only documents of these; all when empty.
        split: how documents are divided; train is learned from, validation chooses the epoch.
        validation: chunks of the validation documents at most that an epoch is judged by.
    """

    sources: tuple[str, ...] = ()
    split: SplitConfig = field(default_factory=SplitConfig)
    validation: int = 1024

    def __post_init__(self) -> None:
        at_least(self, validation=2)


@dataclass(frozen=True)
class InverterOptimConfig:
    """AdamW with a linear warm-up and a cosine down to 0, and how long it runs.

    Attributes:
        lr: the highest learning rate.
        weight_decay: decoupled decay of the matrices.
        batch_tokens: positions in a batch, prefix and padding counted.
        epochs: passes over the training chunks.
        max_updates: stop after so many updates; 0 sets no cap.
        max_seconds: stop after so many seconds of training (validation not counted); 0 sets no cap. The
            schedule then follows the clock where that is ahead, so such a run is not the same twice.
        warmup: share of the whole over which the rate rises from 0.
        clip: largest gradient norm.
        noise: Gaussian noise on the vectors, in their own standard deviations, drawn anew each time.
        topic: weight of a second loss, that the vector alone tell which tokens the text has, in any order.
        topic_updates: updates by this loss alone before the first epoch, of 256 chunks each (`topics`).
    """

    lr: float = 2e-3
    weight_decay: float = 0.05
    batch_tokens: int = 2048
    epochs: int = 3
    max_updates: int = 0
    max_seconds: float = 0.0
    warmup: float = 0.03
    clip: float = 1.0
    noise: float = 0.2
    topic: float = 0.2
    topic_updates: int = 600

    def __post_init__(self) -> None:
        at_least(self, batch_tokens=1, epochs=1, topic_updates=0, max_updates=0, max_seconds=0)
        at_least(self, weight_decay=0, noise=0, topic=0)
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is {self.warmup}; it is a share of the whole, in [0, 1)")


@dataclass(frozen=True)
class InverterConfig:
    """Everything that decides what a training gives, in sections."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    tokens: TokensConfig = field(default_factory=TokensConfig)
    data: InverterDataConfig = field(default_factory=InverterDataConfig)
    optim: InverterOptimConfig = field(default_factory=InverterOptimConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
