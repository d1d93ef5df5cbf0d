"""What a training of the inverter is made of; saved with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from nextvec.config import Checked, number
from nextvec.data.splits import SplitConfig
from nextvec.decoding.inverter.network import NetworkConfig
from nextvec.decoding.inverter.tokens import BYTES, Kind
from nextvec.hardware import RuntimeConfig

MAX_LENGTH = 4096
MAX_VOCABULARY = 2**17


@dataclass(frozen=True)
class TokensConfig(Checked):
    """How text is cut into tokens.

    Attributes:
        kind: "bpe", learned from the training texts, or "bytes".
        vocabulary: tokens at most of kind "bpe", the end of a text among them.
        length: tokens of a text at most; longer ones are cut. 0 takes what 99 of 100 training texts fit in.
    """

    kind: Kind = "bpe"
    vocabulary: int = number(8192, least=BYTES + 1, most=MAX_VOCABULARY)
    length: int = number(0, least=0, most=MAX_LENGTH)


@dataclass(frozen=True)
class InverterDataConfig(Checked):
    """Which documents.

    Attributes:
        sources: only documents of these; all when empty.
        split: how documents are divided; train is learned from, validation chooses the epoch.
        validation: chunks of the validation documents at most that an epoch is measured by.
    """

    sources: tuple[str, ...] = ()
    split: SplitConfig = field(default_factory=SplitConfig)
    validation: int = number(1024, least=2)


@dataclass(frozen=True)
class InverterOptimConfig(Checked):
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

    lr: float = number(2e-3, above=0)
    weight_decay: float = number(0.05, least=0)
    batch_tokens: int = number(2048, least=1)
    epochs: int = number(3, least=1)
    max_updates: int = number(0, least=0)
    max_seconds: float = number(0.0, least=0)
    warmup: float = number(0.03, least=0, below=1)
    clip: float = number(1.0, above=0)
    noise: float = number(0.2, least=0)
    topic: float = number(0.2, least=0)
    topic_updates: int = number(600, least=0)


@dataclass(frozen=True)
class InverterConfig:
    """Everything that decides what a training gives, in sections."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    tokens: TokensConfig = field(default_factory=TokensConfig)
    data: InverterDataConfig = field(default_factory=InverterDataConfig)
    optim: InverterOptimConfig = field(default_factory=InverterOptimConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
