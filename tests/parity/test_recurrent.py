"""LSTM and GRU against plain float64 loops over the papers' gate equations: outputs and every gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nextvec.models import registry
from nextvec.models.architectures.gru import GRU, GRUBlock
from nextvec.models.architectures.lstm import LSTM
from nextvec.models.base import NextVectorModel
from parity.compare import same_as_written_out

B, T, D, H, LAYERS = 2, 11, 6, 8, 3


def lstm_loop(model: LSTM, x: Tensor) -> Tensor:
    """Gates in torch's order: input, forget, cell, output."""
    rows = x
    for weight_ih, weight_hh, bias_ih, bias_hh in model.lstm.all_weights:
        h = c = x.new_zeros(B, H)
        out = []
        for t in range(T):
            i, f, g, o = (rows[:, t] @ weight_ih.T + bias_ih + h @ weight_hh.T + bias_hh).split(H, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            out.append(h)
        rows = torch.stack(out, 1)
    return rows @ model.head.weight.T + model.head.bias


def gru_loop(model: GRU, x: Tensor) -> Tensor:
    """Gates in torch's order: reset, update, new; then dropout (none here) and LayerNorm(x + y)."""
    rows = x @ model.embed.weight.T + model.embed.bias
    for block in model.blocks:
        assert isinstance(block, GRUBlock)
        weight_ih, weight_hh, bias_ih, bias_hh = block.gru.all_weights[0]
        h = x.new_zeros(B, H)
        out = []
        for t in range(T):
            x_r, x_z, x_n = (rows[:, t] @ weight_ih.T + bias_ih).split(H, 1)
            h_r, h_z, h_n = (h @ weight_hh.T + bias_hh).split(H, 1)
            r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
            h = (1 - z) * torch.tanh(x_n + r * h_n) + z * h
            y = rows[:, t] + h
            centred = y - y.mean(1, keepdim=True)
            scale = (centred.square().mean(1, keepdim=True) + 1e-5).rsqrt()
            out.append(centred * scale * block.norm.weight + block.norm.bias)
        rows = torch.stack(out, 1)
    return rows @ model.head.weight.T + model.head.bias


def random_model(name: str) -> tuple[NextVectorModel, Tensor]:
    torch.manual_seed(0)
    model = registry.build(name, "brief", D, hidden=H, layers=LAYERS, dropout=0.0).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.1, 0.5)
    return model, torch.randn(B, T, D, dtype=torch.float64)


def test_lstm_as_the_equations() -> None:
    model, x = random_model("lstm")
    assert isinstance(model, LSTM)
    same_as_written_out(model, model(x).raw, lstm_loop(model, x), 1e-9)


def test_gru_as_the_equations() -> None:
    model, x = random_model("gru")
    assert isinstance(model, GRU)
    same_as_written_out(model, model(x).raw, gru_loop(model, x), 1e-9)
