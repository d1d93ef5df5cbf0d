"""What an inverter is trained to lower."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nextvec.decoding.inverter.state import BETAS, InverterSession
from nextvec.decoding.inverter.tokens import TokenBatch
from nextvec.interrupt import StopSignals, TrainingInterrupted
from nextvec.progress import Progress

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
    with torch.autocast(session.hardware.device, kind, enabled=kind != torch.float32):
        hidden, topic = network(seen, batch.tokens)
        told = batch.targets[batch.mask]
        loss = cross_entropy(hidden[batch.mask].to(kind), network.tokens.weight, told)
    return loss, _any_order(session, topic, batch)


def topic_loss(session: InverterSession, batch: TokenBatch) -> Tensor:
    """The second of `losses` alone, with the training's noise."""
    kind = session.kind
    seen = _seen(session, batch, session.config.optim.noise)
    with torch.autocast(session.hardware.device, kind, enabled=kind != torch.float32):
        topic = session.network.begin(seen)[1][-1]
    return _any_order(session, topic, batch)


def _seen(session: InverterSession, batch: TokenBatch, noise: float) -> Tensor:
    seen = session.network.standardised(batch.vectors)
    return seen + noise * torch.randn_like(seen) if noise else seen


def _any_order(session: InverterSession, topic: Tensor, batch: TokenBatch) -> Tensor:
    """Mean over all tokens of the batch of -log p(token | topic [B, H])."""
    kind = session.kind
    with torch.autocast(session.hardware.device, kind, enabled=kind != torch.float32):
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
