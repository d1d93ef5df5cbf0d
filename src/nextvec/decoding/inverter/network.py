"""The network of the inverter: a small causal transformer over tokens that is given a vector.

The vector becomes the first P positions of the sequence, which every token may look at (Li and Liang,
Prefix-Tuning, 2021; Morris et al., Text Embeddings Reveal (Almost) As Much As Text, 2023, section 3.1, whose
zero-step hypothesis model is of this kind), and once more a term that is added to the residual stream
of every layer, so that no layer has to fetch it by attention.
Blocks are pre-norm, with rotary positions and SwiGLU; the output layer is the token embedding's transpose.
Shapes: B batch, L tokens, P prefix, S positions, D embedding, H width, V tokens known (the end included).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec.config import Checked, number
from nextvec.models.config import MAX_SIZE
from nextvec.models.ops.attention import cache_append, causal_weights
from nextvec.models.ops.layers import RMSNorm, SwiGLU, dropout
from nextvec.models.ops.positions import rotary_angles, rotate

EPS = 1e-6
EMBEDDED, CONDITION = 0.5, 0.1  # how large, at first, against 1 of everything else
MAX_TOKENS = 4096


@dataclass(frozen=True)
class NetworkConfig(Checked):
    """Sizes.

    Attributes:
        width: H.
        layers, heads: blocks, and heads of H / heads (an even number) each.
        ffn: inner width of the feed-forward.
        prefix: P, positions that the vector takes.
        dropout: on what every block adds.
    """

    width: int = number(256, least=1, most=MAX_SIZE)
    layers: int = number(4, least=1, most=MAX_SIZE)
    heads: int = number(4, least=1, most=MAX_SIZE)
    ffn: int = number(512, least=1, most=MAX_SIZE)
    prefix: int = number(4, least=1, most=MAX_SIZE)
    dropout: float = number(0.0, least=0, below=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} does not divide into {self.heads} heads of an even width")


@dataclass
class Cache:
    """Keys and values of the positions read so far, one tensor [2, B, heads, S or more, d] a layer."""

    layers: list[Tensor]
    modulation: Tensor
    length: int

    def chosen(self, rows: Tensor) -> Cache:
        """For the sequences `rows` [B'] of it, in that order; one may come several times."""
        return Cache([c.index_select(1, rows) for c in self.layers], self.modulation[:, rows], self.length)


class DecoderBlock(nn.Module):
    """Attention and feed-forward, each read through a norm and added."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.norm_attention, self.norm_feed = (RMSNorm(config.width, EPS) for _ in range(2))
        self.query_key_value = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)
        self.feed = SwiGLU(config.width, config.ffn)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, ...], cache: Tensor | None, length: int
    ) -> tuple[Tensor, Tensor | None]:
        """x [B, S, H], behind `length` positions that lie in the cache -> [B, S, H], and the cache after."""
        stacked = self.query_key_value(self.norm_attention(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = stacked.permute(2, 0, 3, 1, 4)
        q, k = rotate(q, rotary), rotate(k, rotary)
        if cache is not None:
            cache = cache_append(cache, torch.stack((k, v)), length)
            k, v = cache[..., : length + x.shape[1], :]
        mixed = self.out((causal_weights(q, k) @ v).transpose(1, 2).flatten(2))
        x = x + dropout(mixed, self.dropout, self.training)
        return x + dropout(self.feed(self.norm_feed(x)), self.dropout, self.training), cache


class Network(nn.Module):
    """Vectors and the tokens so far in, a score for every token that may come next out.

    Args:
        dimension: D.
        vocabulary: tokens of the tokenizer; one more, number `vocabulary`, is the end of the text.

    Attributes:
        mean, std: [D] of the vectors trained on; the network sees (vector - mean) / std.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: NetworkConfig, dimension: int, vocabulary: int) -> None:
        super().__init__()
        self.config, self.end = config, vocabulary
        H = config.width
        self.register_buffer("mean", torch.zeros(dimension))
        self.register_buffer("std", torch.ones(dimension))
        self.read = nn.Linear(dimension, 2 * H)
        self.prefix = nn.Linear(2 * H, config.prefix * H)
        self.tell = nn.Linear(2 * H, (config.layers + 1) * H)
        self.tokens = nn.Embedding(vocabulary + 1, H)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.layers))
        self.norm = RMSNorm(H, EPS)
        self._initialise()

    def _initialise(self) -> None:
        """Every product keeps the size of what goes in, but those that end a block, and the layers' inputs,
        begin small. With the usual 0.02 everywhere, a width of 256 learns next to no word order in an epoch.
        """
        small = {self.tell: CONDITION}
        for block in self._blocks:
            small |= dict.fromkeys((block.out, block.feed.outer), (2 * len(self.blocks)) ** -0.5)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=small.get(module, 1.0) * module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.tokens.weight, std=EMBEDDED * self.config.width**-0.5)

    @property
    def _blocks(self) -> list[DecoderBlock]:
        return [block for block in self.blocks if isinstance(block, DecoderBlock)]

    def _embed(self, tokens: Tensor) -> Tensor:
        """Tokens [...] -> [..., H]. The table is the output layer too, whose rows are short: hence the factor
        (Vaswani et al., Attention Is All You Need, 2017, section 3.4)."""
        embedded: Tensor = self.tokens(tokens) * self.config.width**0.5
        return embedded

    def standardised(self, vectors: Tensor) -> Tensor:
        """Raw vectors [B, D] as the network sees them."""
        return (vectors - self.mean) / self.std

    def begin(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised vectors [B, D] -> prefix [B, P, H], and the inputs of layers [layers + 1, B, H]."""
        read = F.gelu(self.read(seen))
        prefix = self.prefix(read).unflatten(-1, (self.config.prefix, -1))
        return prefix, self.tell(read).unflatten(-1, (len(self.blocks) + 1, -1)).transpose(0, 1)

    def forward(self, seen: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised vectors [B, D], tokens [B, L] -> hidden [B, L + 1, H], which token i and then the end
        are predicted from, and topic [B, H], the vector's own part of it."""
        prefix, modulation = self.begin(seen)
        x = torch.cat((prefix, self._embed(tokens).to(prefix.dtype)), 1)
        hidden, _ = self._run(x, modulation, None, 0)
        return hidden[:, self.config.prefix - 1 :], modulation[-1]

    def _run(
        self, x: Tensor, modulation: Tensor, cache: Sequence[Tensor] | None, length: int
    ) -> tuple[Tensor, list[Tensor]]:
        width = self.config.width // self.config.heads
        rotary = rotary_angles(length, x.shape[1], width, x.device, x.dtype)
        after: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            x, grown = block(x + modulation[i, :, None], rotary, None if cache is None else cache[i], length)
            if grown is not None:
                after.append(grown)
        return self.norm(x) + modulation[-1, :, None], after

    def start(self, seen: Tensor) -> tuple[Tensor, Cache]:
        """Standardised vectors [B, D] -> log-probabilities [B, V] of the first token, and the cache."""
        prefix, modulation = self.begin(seen)
        heads = self.config.heads
        empty = prefix.new_empty(2, len(prefix), heads, 0, self.config.width // heads)
        hidden, layers = self._run(prefix, modulation, [empty] * len(self.blocks), 0)
        return self.log_probabilities(hidden[:, -1]), Cache(layers, modulation, self.config.prefix)

    def step(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """One more token [B] each -> log-probabilities [B, V] of the next. The cache given is used up."""
        hidden, layers = self._run(self._embed(tokens)[:, None], cache.modulation, cache.layers, cache.length)
        return self.log_probabilities(hidden[:, -1]), Cache(layers, cache.modulation, cache.length + 1)

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        """[..., H] -> [..., V], in float32."""
        return F.log_softmax(F.linear(hidden, self.tokens.weight).float(), -1)
