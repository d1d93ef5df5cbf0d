"""Under bfloat16 autocast, as `nextvec train` runs where the processor has it, every architecture multiplies
in bfloat16, forward and backward: no layer quietly goes back to float32."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nextvec.hardware import native_bfloat16
from nextvec.models import registry

PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "baddbmm_", "addmm_")
BATCH, TIME, D = 4, 64, 128


class Multiplications(TorchDispatchMode):
    """Counts them by the dtype that they are taken in; those of oneDNN's LSTM are taken by its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [value for value in args if isinstance(value, Tensor) and value.ndim > 1]
        name = func.overloadpacket.__name__
        if name in PRODUCTS:
            self.count[given[-1].dtype] += given[-2].numel() * given[-1].shape[-1]
        elif name.startswith("mkldnn_rnn_layer"):
            self.count[given[0].dtype] += given[0].numel() * given[1].shape[0]
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(not native_bfloat16("cpu"), reason="this processor trains in float32")
@pytest.mark.parametrize("name", registry.names())
def test_products_are_taken_in_bfloat16(name: str) -> None:
    torch.manual_seed(0)
    model = registry.build(name, "small", D).train()
    with Multiplications() as multiplied:
        with torch.autocast("cpu", torch.bfloat16):
            raw = model(torch.randn(BATCH, TIME, D)).raw
        raw.float().square().mean().backward()
    assert multiplied.count[torch.bfloat16] > 0.8 * multiplied.count.total()
