"""DistilGPT-2: GPT-2's pre-norm body on vectors, with a Linear in place of its vocabulary.

Paper: Radford et al., Language Models are Unsupervised Multitask Learners (GPT-2), 2019; Sanh et al.,
DistilBERT, 2019, for the distilled six layers. Source: transformers.GPT2Model.
Deviations: none in the body (learned positions, LayerNorm before each half and at the end, tanh GELU, dropout
in GPT-2's three places, its initial weights). Of the 82M parameters the brief names 38.6M are the vocabulary,
which vectors have no use for: `brief` reaches the count with a wider feed-forward, `faithful` is the body
itself. Learned positions have an end: reading more than `positions` vectors is an error. A body can be taken
from a GPT-2 checkpoint (nextvec.models.transfer); the input layer and the head are always learned anew.
Parity: transformers.GPT2Model with the same weights, copied both ways (tests/parity/test_distilgpt2.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec.errors import ModelError
from nextvec.models.base import ModelConfig
from nextvec.models.ops.attention import cache_append, causal_attention
from nextvec.models.ops.dropout import dropout
from nextvec.models.registry import architecture
from nextvec.models.residual import State
from nextvec.models.stack import Block, Place, Stack

STD = 0.02  # of GPT-2's initial weights


@dataclass(frozen=True, kw_only=True)
class DistilGPT2Config(ModelConfig):
    """hidden: H; layers; heads: of H / heads each; ffn: inner width; positions: vectors that can be read at
    most; dropout: on the embedded input, on attention weights and on what each half adds.
    """

    hidden: int
    layers: int
    heads: int
    ffn: int
    positions: int
    dropout: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden % self.heads:
            raise ValueError(f"hidden = {self.hidden} does not divide into {self.heads} heads")


class GPT2Block(Block):
    """LayerNorm, attention, added; LayerNorm, feed-forward, added. Named as in GPT-2."""

    entries = ("keys_values",)

    def __init__(self, config: DistilGPT2Config) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, config.hidden // config.heads
        self.dropout = config.dropout
        self.ln_1 = nn.LayerNorm(config.hidden)
        self.attn_in = nn.Linear(config.hidden, 3 * config.hidden)
        self.attn_out = nn.Linear(config.hidden, config.hidden)
        self.ln_2 = nn.LayerNorm(config.hidden)
        self.mlp_in = nn.Linear(config.hidden, config.ffn)
        self.mlp_out = nn.Linear(config.ffn, config.hidden)
        for linear in (self.attn_in, self.mlp_in, self.attn_out, self.mlp_out):
            # Section 2.3: what is added to the stream starts smaller the more there is to add.
            adds = linear in (self.attn_out, self.mlp_out)
            nn.init.normal_(linear.weight, std=STD / (2 * config.layers) ** 0.5 if adds else STD)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, place: Place, state: State | None) -> tuple[Tensor, State]:
        """Keys and values are cached as [2, B, h, capacity, d]."""
        q, k, v = self.attn_in(self.ln_1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        after: State = {}
        if state is not None:
            cache = cache_append(state["keys_values"], torch.stack((k, v)), place.start)
            k, v = cache[..., : place.start + x.shape[1], :]
            after["keys_values"] = cache
        mixed = causal_attention(q, k, v, self.dropout if self.training else 0.0)
        x = x + dropout(self.attn_out(mixed.transpose(1, 2).flatten(2)), self.dropout, self.training)
        inner = F.gelu(self.mlp_in(self.ln_2(x)), approximate="tanh")
        return x + dropout(self.mlp_out(inner), self.dropout, self.training), after

    def initial(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        shape = (2, batch, self.heads, 0, self.head_dim)
        return {"keys_values": torch.empty(shape, device=device, dtype=dtype)}


@architecture("distilgpt2")
class DistilGPT2(Stack):
    """The state is each layer's cached keys and values."""

    Config = DistilGPT2Config
    streaming = "cache"
    caches = ("keys_values",)
    paper = "Radford et al., Language Models are Unsupervised Multitask Learners (GPT-2), 2019"
    complexity = "O(T^2)"
    best_for = "starting from a pretrained language model's layers"

    def __init__(self, config: DistilGPT2Config) -> None:
        blocks = (GPT2Block(config) for _ in range(config.layers))
        super().__init__(config, config.hidden, blocks, nn.LayerNorm(config.hidden), config.dropout)
        self.wpe = nn.Embedding(config.positions, config.hidden)
        nn.init.normal_(self.embed.weight, std=STD)
        nn.init.zeros_(self.embed.bias)
        nn.init.normal_(self.wpe.weight, std=STD)

    def enter(self, x: Tensor, start: int) -> Tensor:
        end, most = start + x.shape[1], self.wpe.num_embeddings
        if end > most:
            raise ModelError(
                f"distilgpt2: {end} vectors to read, and it has learned positions for {most}",
                remedy=f"read at most {most}, or train it with model.options.positions = {end}",
            )
        embedded = self.embed(x) + self.wpe.weight[start:end]
        return dropout(embedded, self.embed_dropout, self.training)
