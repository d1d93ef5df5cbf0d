"""Hints stay with their parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nextvec.models.ops.parameters import hints_of, treat


def test_hints_stay_where_they_are_needed() -> None:
    module = nn.Module()
    module.register_parameter("a", treat(nn.Parameter(torch.ones(2)), weight_decay=0.0, max_lr=1e-3))
    module.register_parameter("b", nn.Parameter(torch.ones(2)))
    for one in (module, module.double()):
        found = dict(one.named_parameters())
        assert hints_of(found["a"]) == {"weight_decay": 0.0, "max_lr": 1e-3}
        assert hints_of(found["b"]) == {}


def test_an_unknown_hint_is_refused() -> None:
    with pytest.raises(TypeError, match="momentum"):
        treat(nn.Parameter(torch.ones(1)), momentum=0.5)
