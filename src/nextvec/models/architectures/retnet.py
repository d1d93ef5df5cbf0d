"""RetNet: retention instead of attention, read in parallel, in chunks or step by step with a constant state.

Paper: Sun et al., Retentive Network: A Successor to Transformer for Large Language Models, 2023. Source: the
form published as torchscale 0.3: RMSNorm before each half, SwiGLU, rotation without the xPos scale.
Deviations: the chunked form divides by the same numbers as the parallel one (torchscale's own does not, and
differs from it); dropout on what each half of a layer adds, 0 in `brief`.
Parity: torchscale's MultiScaleRetention with the same weights (tests/parity/test_retnet.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec.models.base import ModelConfig
from nextvec.models.ops.dropout import dropout
from nextvec.models.ops.norms import RMSNorm, rms_norm
from nextvec.models.ops.retention import RetentionState, phases, retention, retention_step
from nextvec.models.ops.swiglu import SwiGLU
from nextvec.models.registry import architecture
from nextvec.models.residual import State
from nextvec.models.stack import Block, Place, Stack

EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class RetNetConfig(ModelConfig):
    """hidden: H; layers; heads; values: width of all heads' values together; ffn: inner width; dropout: on
    what each half of a layer adds.
    """

    hidden: int
    layers: int
    heads: int
    values: int
    ffn: int
    dropout: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden = {self.hidden} does not divide into {self.heads} heads of even width")
        if self.values % self.heads:
            raise ValueError(f"values = {self.values} does not divide into {self.heads} heads")


class Retention(nn.Module):
    """Multi-scale retention with a gate: [B, T, H] -> [B, T, H]."""

    def __init__(self, hidden: int, heads: int, values: int) -> None:
        super().__init__()
        self.hidden, self.heads, self.values = hidden, heads, values
        self.query_key = nn.Linear(hidden, 2 * hidden, bias=False)
        self.value_gate = nn.Linear(hidden, 2 * values, bias=False)
        self.out = nn.Linear(values, hidden, bias=False)
        for projection, width in ((self.query_key, hidden), (self.value_gate, values)):
            # Xavier over each of the two projections alone, times 2^-2.5, as published.
            bound = 2**-2.5 * (6 / (hidden + width)) ** 0.5
            nn.init.uniform_(projection.weight, -bound, bound)
        nn.init.xavier_uniform_(self.out.weight)

    def forward(
        self, x: Tensor, start: int, rotary: Tensor, state: RetentionState | None = None
    ) -> tuple[Tensor, RetentionState | None]:
        """x [B, T, H] at positions `start`, `start` + 1, ... -> what is read [B, T, H] and the new state.

        Retention itself is computed in at least float32, outside of autocast.
        """
        wide = torch.promote_types(x.dtype, torch.float32)
        query_key, value_gate = self.query_key(x).to(wide), self.value_gate(x).to(wide)
        with torch.autocast(x.device.type, enabled=False):
            q, k = query_key.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
            v, gate = value_gate.chunk(2, -1)
            v = v.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            if state is None or x.shape[1] > 1:
                y, state = retention(q, k, v, rotary, start, state)
            else:
                q, k, v = q[:, :, 0], k[:, :, 0], v[:, :, 0]
                read, state = retention_step(q, k, v, rotary, start, state)
                y = read[:, :, None]
            y = rms_norm(y, None, EPS).transpose(1, 2).flatten(2)
            y = (F.silu(gate) * y).to(x.dtype)
        return self.out(y), state

    def initial(self, batch: int, device: torch.device, dtype: torch.dtype) -> RetentionState:
        """The state before the first position, in at least float32."""
        wide = torch.promote_types(dtype, torch.float32)
        d, e = self.hidden // self.heads, self.values // self.heads
        memory = torch.zeros(batch, self.heads, d, e, device=device, dtype=wide)
        return RetentionState(memory, torch.zeros(batch, self.heads, d, device=device, dtype=wide))


class RetNetBlock(Block):
    """x + retention(norm(x)), then x + SwiGLU(norm(x)); the sums stay in x's dtype, also under autocast."""

    entries = RetentionState._fields

    def __init__(self, config: RetNetConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden, EPS)
        self.retention = Retention(config.hidden, config.heads, config.values)
        self.ffn_norm = RMSNorm(config.hidden, EPS)
        self.ffn = SwiGLU(config.hidden, config.ffn)
        self.dropout = config.dropout

    def forward(self, x: Tensor, place: Place, state: State | None) -> tuple[Tensor, State]:
        (rotary,), before = place.rotary, None if state is None else RetentionState(**state)
        read, after = self.retention(self.norm(x), place.start, rotary, before)
        x = x + dropout(read, self.dropout, self.training)
        x = x + dropout(self.ffn(self.ffn_norm(x)), self.dropout, self.training)
        return x, {} if after is None else after._asdict()

    def initial(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        return self.retention.initial(batch, device, dtype)._asdict()


@architecture("retnet")
class RetNet(Stack):
    """The state is each layer's fading sums of keys with values and of keys alone, in float32."""

    Config = RetNetConfig
    streaming = "constant"
    paper = "Sun et al., Retentive Network: A Successor to Transformer for Large Language Models, 2023"
    complexity = "O(T)"
    best_for = "long documents where nearness matters: memories that fade at fixed rates, constant steps"

    def __init__(self, config: RetNetConfig) -> None:
        blocks = (RetNetBlock(config) for _ in range(config.layers))
        super().__init__(config, config.hidden, blocks, RMSNorm(config.hidden, EPS))
        self.head_dim = config.hidden // config.heads

    def rotary(self, x: Tensor, start: int) -> tuple[Tensor, ...]:
        return (phases(start, x.shape[1], self.head_dim, x),)
