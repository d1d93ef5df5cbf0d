"""What an inverter is trained to lower."""

from __future__ import annotations

import torch
from torch import Tensor

from nextvec.decoding.inverter.losses import cross_entropy
from nextvec.decoding.inverter.session import InverterSession
from nextvec.decoding.inverter.tokens import TokenBatch


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
