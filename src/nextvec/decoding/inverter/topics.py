"""What comes before the first epoch: the vector alone learns to tell which tokens its text has.

A text's tokens without their order take one softmax for the whole text, where the text itself takes one for
every token: some fifty times cheaper. It brings the words of a topic into the token embeddings, and into the
way from the vector to them, before the network learns to put words in order.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from nextvec.decoding.inverter.losses import topic_loss
from nextvec.decoding.inverter.session import BETAS, InverterSession
from nextvec.interrupt import StopSignals, TrainingInterrupted
from nextvec.progress import Progress

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
