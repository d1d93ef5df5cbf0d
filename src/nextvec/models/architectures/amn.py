"""AMN, attention mixture network: a learned correction to the mean of the context, with readable attention.

Source: the brief's four-architecture summary. Query from the mean, keys from each vector, one head; the
weighted sum of the original vectors and the mean go through a residual net; output = mean + correction.
Deviations: causal and dense: at position t the mean and the attention run over vectors 0..t, so the last
position of a window is the brief's AMN of that window. The last Linear of the residual net is the `linear`
head and "mean +" is the residual `mean`, so that other heads and residuals fit too.
Parity: the brief's picture transcribed window by window (tests/parity/test_amn.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from nextvec.models.base import ModelConfig, NextVectorModel, Prediction
from nextvec.models.ops.attention import cache_append, cache_used, causal_weights
from nextvec.models.ops.positions import read_so_far
from nextvec.models.registry import architecture
from nextvec.models.residual import MeanResidual, State


@dataclass(frozen=True, kw_only=True)
class AMNConfig(ModelConfig):
    """width: of queries and keys and of the residual net's second layer; hidden: of its first layer."""

    width: int
    hidden: int


@architecture("amn")
class AMN(NextVectorModel):
    """The state is the running mean and the cache of keys and original vectors that attention needs."""

    Config = AMNConfig
    gives_attention = True
    streaming = "cache"
    paper = "The product brief, attention mixture network, 2025"
    complexity = "O(T^2)"
    best_for = "few documents and short contexts; attention that can be read"
    caches = ("keys", "vectors")
    random_init_residuals = ("mean",)  # the brief's own form starts at random
    no_gradient: ClassVar[dict[str, str]] = {
        "context_encoder.bias": "a key bias adds the same to every score of a query; softmax cancels it"
    }

    def __init__(self, config: AMNConfig) -> None:
        super().__init__(config, width=config.width)
        d_embed, width, hidden = config.d_embed, config.width, config.hidden
        self.context_encoder = nn.Linear(d_embed, width)
        self.query_encoder = nn.Linear(d_embed, width)
        self.residual_net = nn.Sequential(
            nn.Linear(2 * d_embed, hidden),
            nn.GELU(),
            nn.LayerNorm(hidden),
            nn.Linear(hidden, width),
            nn.GELU(),
            nn.LayerNorm(width),
        )
        self.mean = MeanResidual("mean")

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        query: Tensor | None = None,
        *,
        return_attention: bool = False,
    ) -> Prediction:
        """As NextVectorModel.forward; with `return_attention`, `extras["attention"]` is [B, T, T]: how much
        position t (second axis) takes from vector s (third axis)."""
        x = self.read(x, lengths)
        seen = self.backbone_inputs(x, query)
        hidden, weights = self._mix(self.mean(seen), self.context_encoder(seen), seen)
        extras = {"attention": weights} if return_attention else None
        return self.predict(hidden, self.residual(x), extras, self.ranking_base(x))

    def step(self, x_t: Tensor, state: State, *, return_attention: bool = False) -> tuple[Prediction, State]:
        """As NextVectorModel.step; the attention is [B, T] over the T vectors read, x_t the last of them."""
        x_t = self.read_one(x_t)
        seen, base, ranking, baseline = self.bases(x_t, state)
        hidden, weights, encoder = self._advance(seen[:, None], *self.mean.step(seen, state), state)
        extras = {"attention": weights[:, 0]} if return_attention else None
        return self.predict(hidden[:, 0], base, extras, ranking), {**encoder, **baseline}

    def encode(self, x: Tensor) -> Tensor:
        return self._mix(self.mean(x), self.context_encoder(x), x)[0]

    def encoder_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        width = self.context_encoder.out_features
        return {
            "keys": torch.empty(batch, 0, width, device=device, dtype=dtype),
            "vectors": torch.empty(batch, 0, self.d_embed, device=device, dtype=dtype),
            "position": torch.zeros((), dtype=torch.int64),
            **self.mean.init_state(batch, self.d_embed, device, dtype),
        }

    def encode_chunk(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, _, state = self._advance(x, *self.mean.chunk(x, state), state)
        return hidden, state

    def encode_step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, _, state = self._advance(x_t[:, None], *self.mean.step(x_t, state), state)
        return hidden[:, 0], state

    def _advance(self, x: Tensor, mean: Tensor, running: State, state: State) -> tuple[Tensor, Tensor, State]:
        """Put x [B, n, D] and its keys into the caches, then mix -> hidden, weights [B, n, S], new state."""
        length = read_so_far(state)
        end = length + x.shape[1]
        keys = cache_append(state["keys"], self.context_encoder(x), length)
        vectors = cache_append(state["vectors"], x, length)
        hidden, weights = self._mix(mean.view_as(x), cache_used(keys, end), cache_used(vectors, end))
        position = state["position"] + x.shape[1]
        return hidden, weights, {"keys": keys, "vectors": vectors, "position": position, **running}

    def _mix(self, mean: Tensor, keys: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Means [B, T, D] ask, keys [B, S, width] answer, vectors [B, S, D] are mixed.

        Returns: hidden states [B, T, width] and the weights [B, T, S].
        """
        weights = causal_weights(self.query_encoder(mean), keys)
        mixed = weights @ vectors
        hidden: Tensor = self.residual_net(torch.cat((mean.to(mixed.dtype), mixed), -1))
        return hidden, weights
