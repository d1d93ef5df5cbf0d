"""The MLP against its window written out position by position: outputs and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nextvec.models import registry
from nextvec.models.architectures.mlp import MLP
from parity.compare import same_as_written_out

D, H, T = 4, 9, 8


@pytest.mark.parametrize("context", [1, 3, 20])
def test_every_window_written_out(context: int) -> None:
    torch.manual_seed(0)
    model = registry.build("mlp", "brief", D, context=context, hidden=H, dropout=0.0).double()
    assert isinstance(model, MLP)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.1, 0.6)
    x = torch.randn(2, T, D, dtype=torch.float64)
    expected = torch.zeros_like(x)
    for row in range(2):
        for t in range(T):
            values, mask = [], []
            for slot in range(t - context + 1, t + 1):
                values += [x[row, slot] if slot >= 0 else torch.zeros(D, dtype=torch.float64)]
                mask += [1.0 if slot >= 0 else 0.0]
            hidden = F.gelu(model.first(torch.cat((*values, torch.tensor(mask, dtype=torch.float64)))))
            expected[row, t] = model.head(F.gelu(model.second(hidden)))
    same_as_written_out(model, model(x).raw, expected, 1e-9)
