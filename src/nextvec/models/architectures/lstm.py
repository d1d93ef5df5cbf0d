"""LSTM: stacked long short-term memory, the brief's recurrent baseline.

Paper: Hochreiter and Schmidhuber, Long Short-Term Memory, 1997 (with the forget gate of Gers et al., 2000).
Deviations: none; dropout stands between layers only, as in torch.nn.LSTM.
Parity: a plain float64 loop over the gate equations (tests/parity/test_recurrent.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nextvec.config import number
from nextvec.hardware import native_bfloat16
from nextvec.models.base import ModelConfig, NextVectorModel
from nextvec.models.ops.recurrence import NARROW
from nextvec.models.registry import architecture
from nextvec.models.residual import State


@dataclass(frozen=True, kw_only=True)
class LSTMConfig(ModelConfig):
    """hidden: H of each layer; layers; dropout between layers."""

    hidden: int
    layers: int
    dropout: float = number(least=0, below=1)


@architecture("lstm")
class LSTM(NextVectorModel):
    """torch.nn.LSTM and a head; the state is each layer's h and c.

    On a CPU oneDNN multiplies the inputs of all positions at once, and only the recurrence one by one. In
    bfloat16 it trains about 1.5 times as fast as in float32, but not on fewer than `NARROW` rows, where its
    backward pass is slower (at H = 256, T = 512: 84 against 63 ms for one row, 126 against 171 for four).
    """

    Config = LSTMConfig
    streaming = "constant"
    paper = "Hochreiter and Schmidhuber, Long Short-Term Memory, 1997"
    complexity = "O(T)"
    best_for = "streams of any length on a CPU, in a state of a few kilobytes"

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config, width=config.hidden)
        dropout = config.dropout if config.layers > 1 else 0.0  # torch warns about dropout it cannot apply
        self.lstm = nn.LSTM(config.d_embed, config.hidden, config.layers, dropout=dropout, batch_first=True)

    def encode(self, x: Tensor) -> Tensor:
        return self._read(x, None)[0]

    def _read(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        # oneDNN has no LSTM in bfloat16 for processors without such instructions, and raises there.
        cpu = x.device.type
        # Not asked for its rows outside of autocast: an exported graph would hold for that number alone.
        if (
            cpu == "cpu"
            and torch.is_autocast_enabled(cpu)
            and (not native_bfloat16(cpu) or (torch.is_grad_enabled() and len(x) < NARROW))
        ):
            with torch.autocast(cpu, enabled=False):
                read: tuple[Tensor, tuple[Tensor, Tensor]] = self.lstm(x, state)
        else:
            read = self.lstm(x, state)
        return read

    def encoder_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        zeros = torch.zeros(self.lstm.num_layers, batch, self.lstm.hidden_size, device=device, dtype=dtype)
        return {"h": zeros, "c": zeros.clone()}

    def encode_chunk(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, (h, c) = self._read(x, (state["h"], state["c"]))
        return hidden, {"h": h, "c": c}

    def encode_step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        hs: list[Tensor] = []
        cs: list[Tensor] = []
        for weights, h, c in zip(self.lstm.all_weights, state["h"], state["c"], strict=True):
            h, c = torch.lstm_cell(x_t, (h, c), *weights)
            hs.append(h)
            cs.append(c)
            x_t = nn.functional.dropout(h, self.lstm.dropout, self.training)
        return hs[-1], {"h": torch.stack(hs), "c": torch.stack(cs)}
