"""What a training of the inverter is made of, which is saved with it, and everything that one holds while it
is at work: how it is set up, new or from its checkpoint."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nextvec.checkpoint import CONFIG, begin, restore, seed_everything, write_checkpoint
from nextvec.config import Checked, from_dict, number, read_toml, refuse_changes, to_dict, write_toml
from nextvec.corpus.reading import Space
from nextvec.corpus.store import Store
from nextvec.data.splits import Split, SplitConfig, split_documents
from nextvec.data.trained import TRAINED_ON, TrainedOn, store_identity
from nextvec.decoding.inverter.folder import save_inverter
from nextvec.decoding.inverter.network import Network, NetworkConfig
from nextvec.decoding.inverter.tokenizer import (
    BYTES,
    MAX_LENGTH,
    Kind,
    Pairs,
    Tokens,
    pairs_of,
    rows_with_text,
)
from nextvec.errors import DecoderError, SplitError
from nextvec.hardware import Hardware, RuntimeConfig, find_hardware

log = logging.getLogger("nextvec.decoding")

HISTORY = "history.jsonl"
FREE_TO_CHANGE = ("runtime.checkpoint_every_s",)
"""Keys that a resumed training may change: they decide how it works, not what it gives."""
QUANTILE = 0.99
STD_FLOOR = 1e-6
BETAS = (0.9, 0.98)
BLOCK = 8192
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


@dataclass
class InverterState:
    """How far a training has come: all of it is in the checkpoint.

    Attributes:
        epoch: epochs completed; batch: batches done of the running one.
        update, tokens, chunks: optimiser steps, tokens predicted and chunks read, so far.
        seconds: of training so far, validation not counted.
        best_epoch, best_loss: the best validation so far (0: none yet).
        stopped: why the training is over; empty while it is not.
        history: a line an epoch.
    """

    epoch: int = 0
    batch: int = 0
    update: int = 0
    tokens: int = 0
    chunks: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    best_loss: float = math.inf
    stopped: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class InverterSession:
    """A training at work. `sums` holds the running epoch's loss, topic loss and token count."""

    store: Store
    config: InverterConfig
    out: Path
    hardware: Hardware
    tokens: Tokens
    length: int
    network: Network
    optimiser: torch.optim.Optimizer
    training: Pairs
    validation: Pairs
    identity: dict[str, Any]
    extra: dict[str, Any]
    sums: Tensor
    state: InverterState = field(default_factory=InverterState)

    @property
    def kind(self) -> torch.dtype:
        """What products are made in."""
        return torch.bfloat16 if self.hardware.precision == "bfloat16" else torch.float32

    def products(self) -> torch.autocast:
        """To make them so inside."""
        return torch.autocast(self.hardware.device, self.kind, enabled=self.kind != torch.float32)

    def progress(self, batches: int) -> float:
        """The share of the whole that is done, in [0, 1], by what is furthest: epochs, updates or the clock;
        `batches` are those of the running epoch."""
        state, optim = self.state, self.config.optim
        done = [(state.epoch + state.batch / batches) / optim.epochs]
        if optim.max_updates:
            done.append(state.update / optim.max_updates)
        if optim.max_seconds:
            done.append(state.seconds / optim.max_seconds)
        return min(max(done), 1.0)

    def save(self) -> None:
        """Write the checkpoint."""
        # JSON has no infinity: before the first validation there is no best loss to write.
        metadata = {
            "config": to_dict(self.config),
            "state": {name: value for name, value in asdict(self.state).items() if value != math.inf},
            "identity": self.identity,
            "hardware": asdict(self.hardware),
        }
        write_checkpoint(self.out, {"network": self.network}, self.optimiser, self.sums, metadata)

    def keep(self, validation: dict[str, float]) -> None:
        """Save the network as the best so far."""
        extra = {**self.extra, "epoch": self.state.epoch, "validation": validation}
        save_inverter(self.out, self.network, self.tokens, Space.of(self.store), self.length, extra)


def open_session(store: Store, config: InverterConfig | None, out: Path, *, resume: bool) -> InverterSession:
    """Set a training up; nothing is written before everything is known to fit.

    Args:
        config: None takes the defaults or, on resume, what the training was started with.
    Raises:
        RunError: `out` holds something (without `resume`) or no training (with it), or one of another
            configuration or store.
        DecoderError: chunks without text. ConfigError, SplitError: the configuration cannot be carried out.
    """
    config, checkpoint = begin(out, config, _read, resume=resume, free=FREE_TO_CHANGE, what="training")
    config = config or InverterConfig()
    if config.runtime.threads:
        torch.set_num_threads(config.runtime.threads)
    split = split_documents(store, config.data.split, config.data.sources)
    hardware = Hardware(**checkpoint.metadata["hardware"]) if checkpoint else find_hardware(config.runtime)
    session = _build(store, config, out, split, hardware)
    if checkpoint:
        refuse_changes(out, checkpoint.metadata["identity"], session.identity)
        restore(checkpoint, {"network": session.network}, session.optimiser, session.sums, out)
        session.state = InverterState(**checkpoint.metadata["state"])
    write_toml(out / CONFIG, config)
    TrainedOn.of(store, split.train).save(out / TRAINED_ON)
    log.info("training on %s in %s", hardware.device, hardware.precision)
    return session


def _read(path: Path) -> InverterConfig:
    return from_dict(InverterConfig, read_toml(path), where=path)


def _build(
    store: Store, config: InverterConfig, out: Path, split: Split, hardware: Hardware
) -> InverterSession:
    for name in ("train", "validation"):
        if not split.of(name):
            remedy = "change data.split or ingest more documents"
            raise SplitError(f"no document is in the split '{name}'", where=store.path, remedy=remedy)
    rows, texts = rows_with_text(store, split.train)
    if not texts:
        remedy = "import it with its texts, or ingest the documents"
        raise DecoderError("its chunks have no text to learn from", where=store.path, remedy=remedy)
    tokens = Tokens.learned(config.tokens.kind, config.tokens.vocabulary - 1, texts)
    pairs = tokens.encode(texts)
    length = config.tokens.length or _fitting([len(p) for p in pairs])
    training = Pairs(store.vectors, rows, pairs, tokens.size, length)
    validation = pairs_of(store, split.validation, tokens, length, config.data.validation)
    if len(validation) < 2:
        remedy = "change data.split or ingest more documents"
        raise SplitError("fewer than two chunks of text to validate on", where=store.path, remedy=remedy)
    seed_everything(config.runtime.seed)
    network = Network(config.network, store.dimension, tokens.size)
    _standardise(network, training)
    network.to(hardware.device)
    return InverterSession(
        store=store,
        config=config,
        out=out,
        hardware=hardware,
        tokens=tokens,
        length=length,
        network=network,
        optimiser=make_optimiser(network, config, hardware),
        training=training,
        validation=validation,
        identity={**store_identity(store, split), "tokenizer": tokens.sha256},
        extra={"config": to_dict(config), "training": _provenance(store, config, split, len(training))},
        sums=torch.zeros(3, dtype=torch.float64),
    )


def make_optimiser(network: Network, config: InverterConfig, hardware: Hardware) -> torch.optim.AdamW:
    """AdamW that decays matrices, but neither norms nor biases."""
    learned = list(network.parameters())
    groups = [
        {"params": [p for p in learned if p.ndim > 1], "weight_decay": config.optim.weight_decay},
        {"params": [p for p in learned if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.optim.lr, betas=BETAS, fused=hardware.device != "mps")


def _fitting(lengths: list[int]) -> int:
    """Tokens that 99 of 100 texts fit in."""
    return min(math.ceil(float(np.quantile(lengths, QUANTILE))), MAX_LENGTH)


def _standardise(network: Network, training: Pairs) -> None:
    """Take mean and spread of every dimension from the training vectors, in one pass."""
    count, sums = 0, np.zeros((2, training.vectors.shape[1]))
    for start in range(0, len(training), BLOCK):
        block = training.vectors.gather(training.rows[start : start + BLOCK]).astype(np.float64)
        count += len(block)
        sums += np.stack([block.sum(0), np.square(block).sum(0)])
    mean, square = sums / count
    std = np.sqrt(np.maximum(square - mean**2, 0))
    network.mean.copy_(torch.from_numpy(mean))
    # A dimension that never varies tells nothing; it must not blow up what hardly varies elsewhere.
    network.std.copy_(torch.from_numpy(np.maximum(std, max(STD_FLOOR, 1e-3 * float(std.mean())))))


def _provenance(store: Store, config: InverterConfig, split: Split, chunks: int) -> dict[str, Any]:
    """What an inverter tells of its training."""
    return {
        "store": str(store.path.resolve()),
        "store_fingerprint": store.fingerprint,
        "sources": list(config.data.sources),
        "split": asdict(config.data.split),
        "documents": len(split.train),
        "chunks": chunks,
    }
