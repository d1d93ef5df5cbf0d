"""Transformer: post-norm decoder layers that look at the context twice, the brief's largest of four.

Paper: Vaswani et al., Attention Is All You Need, 2017. Source: the brief's model matrix.
Deviations: none from torch.nn.TransformerDecoderLayer (post-norm, ReLU). The decoder's input and its memory
are both the embedded context with sinusoidal positions, and self-attention and cross-attention are both
causal: position t sees vectors 0..t in each.
Parity: torch.nn.TransformerDecoder with the same weights (tests/parity/test_transformer.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec.config import number
from nextvec.models.base import ModelConfig, NextVectorModel
from nextvec.models.ops.attention import attention_at, cache_append, cache_used, causal_attention
from nextvec.models.ops.layers import dropout
from nextvec.models.ops.positions import read_so_far, sinusoidal
from nextvec.models.registry import architecture
from nextvec.models.residual import State, at_last


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(ModelConfig):
    """hidden: H; layers; heads: of head_width each, by default H / heads (a model some of whose heads were
    pruned has fewer of the same width); ffn: inner width; dropout: everywhere torch has it."""

    hidden: int
    layers: int
    heads: int
    ffn: int
    dropout: float = number(least=0, below=1)
    head_width: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_width is None and self.hidden % self.heads:
            raise ValueError(f"hidden = {self.hidden} does not divide into {self.heads} heads")

    @property
    def inner(self) -> int:
        """Of all heads side by side."""
        return self.heads * (self.head_width or self.hidden // self.heads)


class Attention(nn.Module):
    """Multi-head causal attention: queries from x, keys and values from the memory (x itself, or not).

    `inner` is the width of all heads together.
    """

    def __init__(self, hidden: int, heads: int, dropout: float, inner: int | None = None) -> None:
        super().__init__()
        inner = inner or hidden
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(hidden, inner)
        self.key_value = nn.Linear(hidden, 2 * inner)
        self.out = nn.Linear(inner, hidden)
        for projection in (self.query, self.key_value):
            # As torch.nn.MultiheadAttention: Xavier over the three projections stacked, zero biases.
            bound = (6 / (hidden + 3 * inner)) ** 0.5
            nn.init.uniform_(projection.weight, -bound, bound)
            nn.init.zeros_(projection.bias)
        nn.init.zeros_(self.out.bias)

    def keys_values(self, memory: Tensor) -> Tensor:
        """memory [B, S, H] -> keys and values stacked [2, B, heads, S, head_width]."""
        stacked: Tensor = self.key_value(memory).unflatten(-1, (2, self.heads, -1))
        return stacked.permute(2, 0, 3, 1, 4)

    def forward(self, x: Tensor, keys_values: Tensor, last: Tensor | None = None) -> Tensor:
        """x [B, T, H], the last T of the S positions in `keys_values` -> [B, T, H].

        With `last` [B], x is [B, 1, H]: what stands at that position of each row.
        """
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = keys_values.unbind()
        if last is None:
            mixed = causal_attention(q, k, v, self.dropout if self.training else 0.0)
        else:
            mixed = attention_at(last, q, k, v)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward, each added and then normalised."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        sizes = (config.hidden, config.heads, config.dropout, config.inner)
        self.self_attention, self.cross_attention = Attention(*sizes), Attention(*sizes)
        self.ffn_in = nn.Linear(config.hidden, config.ffn)
        self.ffn_out = nn.Linear(config.ffn, config.hidden)
        self.norms = nn.ModuleList(nn.LayerNorm(config.hidden) for _ in range(3))
        self.dropout = config.dropout

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """x, memory [B, T, H] -> [B, T, H]."""
        x = self._add(0, x, self.self_attention(x, self.self_attention.keys_values(x)))
        x = self._add(1, x, self.cross_attention(x, self.cross_attention.keys_values(memory)))
        return self._feed_forward(x)

    def last(self, x: Tensor, memory: Tensor, last: Tensor | None) -> Tensor:
        """The same at position `last` [B] of each row alone (None: the very last) -> [B, H]."""
        asking, own, cross = at_last(x, last)[:, None], self.self_attention, self.cross_attention
        asking = self._add(0, asking, own(asking, own.keys_values(x), last))
        asking = self._add(1, asking, cross(asking, cross.keys_values(memory), last))
        return self._feed_forward(asking)[:, 0]

    def extend(
        self, x: Tensor, memory: Tensor, own: Tensor, cross: Tensor, length: int
    ) -> tuple[Tensor, ...]:
        """The same for x, memory [B, n, H] that follow `length` positions whose keys and values are cached.

        Returns: the output [B, n, H] and the two caches.
        """
        end = length + x.shape[1]
        own = cache_append(own, self.self_attention.keys_values(x), length)
        x = self._add(0, x, self.self_attention(x, cache_used(own, end)))
        cross = cache_append(cross, self.cross_attention.keys_values(memory), length)
        x = self._add(1, x, self.cross_attention(x, cache_used(cross, end)))
        return self._feed_forward(x), own, cross

    def _feed_forward(self, x: Tensor) -> Tensor:
        inner = dropout(F.relu(self.ffn_in(x)), self.dropout, self.training)
        return self._add(2, x, self.ffn_out(inner))

    def _add(self, i: int, x: Tensor, y: Tensor) -> Tensor:
        added: Tensor = self.norms[i](x + dropout(y, self.dropout, self.training))
        return added


@architecture("transformer")
class Transformer(NextVectorModel):
    """The state is each layer's cached keys and values, of self-attention and of cross-attention."""

    Config = TransformerConfig
    streaming = "cache"
    paper = "Vaswani et al., Attention Is All You Need, 2017"
    complexity = "O(T^2)"
    best_for = "contexts of up to some hundred chunks with enough documents to learn from"
    caches = ("own", "cross")

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config, width=config.hidden)
        self.embed = nn.Linear(config.d_embed, config.hidden)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.heads, self.inner, self.dropout = config.heads, config.inner, config.dropout

    def encode(self, x: Tensor) -> Tensor:
        memory = hidden = self._embed(x, 0)
        for layer in self.layers:
            hidden = layer(hidden, memory)
        return hidden

    def encode_last(self, x: Tensor, last: Tensor | None) -> Tensor:
        memory = hidden = self._embed(x, 0)
        *layers, top = self.layers
        for layer in layers:
            hidden = layer(hidden, memory)
        assert isinstance(top, DecoderLayer)
        return top.last(hidden, memory, last)

    def encoder_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        shape = (2, batch, self.heads, 0, self.inner // self.heads)
        state = {"position": torch.zeros((), dtype=torch.int64)}
        for i in range(len(self.layers)):
            for cache in self.caches:
                state[f"{cache}.{i}"] = torch.empty(shape, device=device, dtype=dtype)
        return state

    def encode_chunk(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        length = read_so_far(state)
        memory = hidden = self._embed(x, length)
        new: State = {"position": state["position"] + x.shape[1]}
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, DecoderLayer)
            own, cross = f"own.{i}", f"cross.{i}"
            hidden, new[own], new[cross] = layer.extend(hidden, memory, state[own], state[cross], length)
        return hidden, new

    def encode_step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, state = self.encode_chunk(x_t[:, None], state)
        return hidden[:, 0], state

    def _embed(self, x: Tensor, start: int) -> Tensor:
        """Project and add positions start, start + 1, ...; dropout on the sum (the paper's section 5.4).

        Not the factor sqrt(H) of section 3.4: the recipe's scaling brings the vectors' components to about 1,
        so that embedding and positions are of a size; with both, the positions drown (LOG.md).
        """
        width = self.embed.out_features
        positions = sinusoidal(start, x.shape[1], width, x.device, x.dtype)
        embedded = self.embed(x) + positions
        return dropout(embedded, self.dropout, self.training)
