"""The training of an inverter. `train_inverter` is the whole of it; what it calls, and what is lowered, stand
below it."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nextvec.checkpoint import save_and_stop
from nextvec.corpus.store import Store
from nextvec.decoding.inverter.state import (
    BETAS,
    HISTORY,
    InverterConfig,
    InverterOptimConfig,
    InverterSession,
    open_session,
)
from nextvec.decoding.inverter.tokenizer import TokenBatch
from nextvec.disk import locked, write_lines
from nextvec.errors import TrainingError
from nextvec.interrupt import StopSignals, TrainingInterrupted
from nextvec.progress import Progress


@dataclass(frozen=True)
class InverterResult:
    """What a finished training says of itself.

    `epoch` is the best by validation; `loss` is its mean loss a token there in nats, `loss_shuffled` the same
    with the vectors of other chunks: how much less is the vector's worth. `tokens` counts tokens predicted in
    training, `seconds` what that took. `stopped`: "epochs", "max_updates" or "max_seconds".
    """

    folder: str
    epoch: int
    epochs: int
    loss: float
    loss_shuffled: float
    stopped: str
    updates: int
    tokens: int
    seconds: float
    parameters: int


def train_inverter(
    store: Store, config: InverterConfig | None, out: str | Path, *, resume: bool = False, quiet: bool = False
) -> InverterResult:
    """Train an inverter on the (vector, text) pairs of a store's training documents; `out` receives it.

    The best by validation loss lies in `out`, what a resumed training needs in `out/last`.

    Args:
        config: None takes the defaults or, on resume, the training's own.
    Raises:
        RunError: `out` is not empty (or, on resume, holds no training of this configuration and store).
        BusyError: another process is writing `out`. DiskError: it cannot be written to.
        DecoderError: chunks without text.
        TrainingError: a loss or gradient that is not finite; the weights of the update before are kept.
        TrainingInterrupted: Ctrl-C or SIGTERM; everything is saved.
        ConfigError, SplitError: the configuration cannot be carried out.
    """
    with locked(Path(out)):
        session = open_session(store, config, Path(out), resume=resume)
        run_epochs(session, quiet=quiet)
    state = session.state
    best = state.history[state.best_epoch - 1]["validation"]
    return InverterResult(
        folder=str(out),
        epoch=state.best_epoch,
        epochs=state.epoch,
        loss=best["loss"],
        loss_shuffled=best["loss_shuffled"],
        stopped=state.stopped,
        updates=state.update,
        tokens=state.tokens,
        seconds=state.seconds,
        parameters=sum(p.numel() for p in session.network.parameters()),
    )


def run_epochs(session: InverterSession, *, quiet: bool) -> None:
    """All epochs that are still to be trained, saved one by one. Raises as `train_inverter`."""
    state, epochs = session.state, session.config.optim.epochs
    total = epochs * len(session.training)
    with StopSignals() as signals, ExitStack() as stack:
        if state.update == 0:
            learn_topics(session, signals, quiet=quiet)
        bar = Progress("train inverter", total, "chunks", initial=state.chunks, quiet=quiet)
        progress = stack.enter_context(bar)
        while not state.stopped:
            train_epoch(session, signals, progress)
            finish_epoch(session)
            progress.advance(0, f"epoch {state.epoch} loss {state.history[-1]['validation']['loss']:.4f}")
            session.save()
            save_and_stop(signals, session.save, session.out, state.update)


def train_epoch(session: InverterSession, signals: StopSignals, progress: Progress) -> None:
    """Make the updates of the running epoch that are still to be made."""
    state, config = session.state, session.config
    size, prefix = config.optim.batch_tokens, config.network.prefix
    planned = session.training.epoch(config.runtime.seed, state.epoch, size, prefix)
    session.network.train()
    saved = before = time.monotonic()
    for chosen in islice(planned, state.batch, None):
        update(session, session.training.batch(chosen).to(session.hardware.device), len(planned))
        state.chunks += len(chosen)
        now = time.monotonic()
        state.seconds, before = state.seconds + now - before, now
        progress.advance(len(chosen), f"loss {float(session.sums[0] / session.sums[2]):.3f}")
        save_and_stop(signals, session.save, session.out, state.update)
        if capped(session):
            break
        if now - saved >= config.runtime.checkpoint_every_s:
            session.save()
            saved = now


def update(session: InverterSession, batch: TokenBatch, batches: int) -> None:
    """One step of the optimiser; the running epoch has so many `batches`."""
    state, optim = session.state, session.config.optim
    for group in session.optimiser.param_groups:
        group["lr"] = learning_rate(optim, session.progress(batches))
    loss, topic = losses(session, batch, optim.noise)
    total = loss + optim.topic * topic if optim.topic else loss
    total.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(session.network.parameters(), optim.clip)
    if not math.isfinite(total.item() + norm.item()):
        message = f"update {state.update + 1} has loss {total.item():.4g} and gradient norm {norm.item():.4g}"
        remedy = "lower optim.lr or optim.clip, or look at the store's vectors: nextvec diagnose data"
        raise TrainingError(message, where=session.out, remedy=remedy)
    session.optimiser.step()
    session.optimiser.zero_grad(set_to_none=True)
    count = int(batch.mask.sum())
    session.sums += torch.tensor([loss.item() * count, topic.item() * count, count], dtype=torch.float64)
    state.batch += 1
    state.update += 1
    state.tokens += count


def learning_rate(config: InverterOptimConfig, progress: float) -> float:
    """The rate when the share `progress` of the training is done: up linearly, then down by a cosine."""
    if progress < config.warmup:
        # Not quite 0 at the first update, which would be made for nothing.
        return config.lr * max(progress / config.warmup, 0.01)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (progress - config.warmup) / (1 - config.warmup)))


def capped(session: InverterSession) -> str:
    """Which limit other than that of epochs has been reached, or an empty string."""
    state, optim = session.state, session.config.optim
    if optim.max_updates and state.update >= optim.max_updates:
        return "max_updates"
    return "max_seconds" if optim.max_seconds and state.seconds >= optim.max_seconds else ""


def finish_epoch(session: InverterSession) -> None:
    """Validate, keep the best network, and write the epoch's line of history."""
    state = session.state
    validation = validate(session)
    state.epoch, state.batch = state.epoch + 1, 0
    if validation["loss"] < state.best_loss:
        state.best_epoch, state.best_loss = state.epoch, validation["loss"]
        session.keep(validation)
    state.stopped = capped(session) or ("epochs" if state.epoch >= session.config.optim.epochs else "")
    loss, topic, count = session.sums.tolist()
    line = {
        "epoch": state.epoch,
        "update": state.update,
        "train": {"loss": loss / count, "topic": topic / count},
        "validation": validation,
        "lr": session.optimiser.param_groups[0]["lr"],
        "seconds": state.seconds,
        "tokens": state.tokens,
    }
    state.history.append(line)
    write_lines(session.out / HISTORY, state.history)
    session.sums.zero_()


@torch.no_grad()
def validate(session: InverterSession) -> dict[str, float]:
    """Losses a token over the validation chunks, without noise: given their own vectors, given those of other
    chunks, and the guess of tokens from the vector alone."""
    session.network.eval()
    pairs, optim = session.validation, session.config.optim
    others = np.random.default_rng(0).permutation(len(pairs))
    others = np.roll(others, 1)[np.argsort(others)]  # one cycle: nobody keeps its own
    sums = np.zeros(4)
    for chosen in pairs.fixed(optim.batch_tokens, session.config.network.prefix):
        own = pairs.batch(chosen).to(session.hardware.device)
        shuffled = pairs.batch(chosen, others[chosen]).to(session.hardware.device)
        (loss, topic), (control, _) = (losses(session, batch, 0.0) for batch in (own, shuffled))
        count = int(own.mask.sum())
        sums += np.array([loss.item() * count, control.item() * count, topic.item() * count, count])
    loss_sum, control_sum, topic_sum, total = sums.tolist()
    found = {"loss": loss_sum, "loss_shuffled": control_sum, "topic": topic_sum}
    if not math.isfinite(sum(found.values())):
        message = f"epoch {session.state.epoch + 1} ends with validation figures that are not finite"
        raise TrainingError(message, where=session.out, remedy="lower optim.lr or optim.clip")
    return {name: value / total for name, value in found.items()}


# Cross entropy of an output layer whose logits are never all there at once.
#
# [N, V] logits of a batch are its largest tensor by far: with 2,000 tokens and 8,000 words 64 MB in float32,
# made three times over by torch's own operations. Here they are made for some rows at a time, while they fit
# into the cache, and turned into the gradient there and then.

ROWS = 256


def cross_entropy(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """Mean over N of -log softmax(hidden weight^T)[target], in nats.

    Args:
        hidden: [N, H], in the dtype that the products are to be made in.
        weight: [V, H].
        target: [N] int64.
    """
    loss: Tensor = _CrossEntropy.apply(hidden, weight, target)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
        kind = hidden.dtype
        learning = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        narrow = weight.to(kind)
        by_hidden = torch.empty_like(hidden) if learning else None
        by_weight = torch.zeros_like(weight) if learning else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(hidden), ROWS):
            h, t = hidden[start : start + ROWS], target[start : start + ROWS, None]
            logits = (h @ narrow.T).float()
            normaliser = torch.logsumexp(logits, -1, keepdim=True)
            total += (normaliser - logits.gather(-1, t)).sum()
            if by_hidden is None or by_weight is None:
                continue
            slope = logits.sub_(normaliser).exp_()
            slope.scatter_add_(-1, t, slope.new_full(t.shape, -1.0))
            slope = slope.to(kind)
            by_hidden[start : start + ROWS] = slope @ narrow
            by_weight += slope.T @ h
        ctx.count = len(hidden)
        ctx.save_for_backward(by_hidden, by_weight)
        return total / len(hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        by_hidden, by_weight = ctx.saved_tensors
        share = grad / ctx.count
        return by_hidden * share.to(by_hidden.dtype), by_weight * share.to(by_weight.dtype), None


def losses(session: InverterSession, batch: TokenBatch, noise: float) -> tuple[Tensor, Tensor]:
    """Of a text given its vector, and of its tokens in any order, told by the vector alone.

    Args:
        noise: standard deviation of what is added to the standardised vectors.
    Returns: two means over the tokens, in nats.
    """
    network, kind = session.network, session.kind
    seen = _seen(session, batch, noise)
    with session.products():
        hidden, topic = network(seen, batch.tokens)
        target_ids = batch.targets[batch.mask]
        loss = cross_entropy(hidden[batch.mask].to(kind), network.tokens.weight, target_ids)
    return loss, _any_order(session, topic, batch)


def topic_loss(session: InverterSession, batch: TokenBatch) -> Tensor:
    """The second of `losses` alone, with the training's noise."""
    seen = _seen(session, batch, session.config.optim.noise)
    with session.products():
        topic = session.network.begin(seen)[1][-1]
    return _any_order(session, topic, batch)


def _seen(session: InverterSession, batch: TokenBatch, noise: float) -> Tensor:
    seen = session.network.standardised(batch.vectors)
    return seen + noise * torch.randn_like(seen) if noise else seen


def _any_order(session: InverterSession, topic: Tensor, batch: TokenBatch) -> Tensor:
    """Mean over all tokens of the batch of -log p(token | topic [B, H])."""
    with session.products():
        guess = session.network.log_probabilities(topic)
    whose = torch.nonzero(batch.mask)[:, 0]
    return -guess[whose, batch.targets[batch.mask]].mean()


# What comes before the first epoch: the vector alone learns to tell which tokens its text has.
#
# A text's tokens without their order take one softmax for the whole text, where the text itself takes one for
# every token: some fifty times cheaper. It brings the words of a topic into the token embeddings, and into
# the way from the vector to them, before the network learns to put words in order.

BATCH = 256
LR = 3e-3
WARMUP = 50


def learn_topics(session: InverterSession, signals: StopSignals, *, quiet: bool) -> None:
    """Make `optim.topic_updates` updates of what leads from a vector to the tokens. Draws on torch's global
    generator (the noise).

    Raises:
        TrainingInterrupted: Ctrl-C or SIGTERM; nothing is saved of it, a resumed training begins here again.
    """
    network, config, pairs = session.network, session.config, session.training
    updates = config.optim.topic_updates
    learned = [*network.read.parameters(), *network.tell.parameters(), *network.tokens.parameters()]
    optimiser = torch.optim.AdamW(learned, lr=LR, weight_decay=config.optim.weight_decay, betas=BETAS)
    rng = np.random.default_rng(config.runtime.seed)
    order = np.zeros(0, np.int64)
    network.train()
    with Progress("learn topics", updates, "updates", quiet=quiet) as progress:
        for update in range(updates):
            if len(order) < BATCH:
                order = np.concatenate([order, rng.permutation(len(pairs))])
            chosen, order = order[:BATCH], order[BATCH:]
            rate = min(1.0, (update + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * update / updates))
            for group in optimiser.param_groups:
                group["lr"] = LR * rate
            loss = topic_loss(session, pairs.batch(chosen).to(session.hardware.device))
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            progress.advance(note=f"loss {loss.item():.3f}")
            if signals.received is not None:
                raise TrainingInterrupted(signals.received, session.out, 0)
