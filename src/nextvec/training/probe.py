"""Which device and which precision a run takes, found out at run time."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from functools import cache

import torch

from nextvec.errors import ConfigError
from nextvec.training.config import RuntimeConfig

WORTH = 1.2
"""bfloat16 is taken when a matrix product is at least this many times faster in it."""


@dataclass(frozen=True)
class Hardware:
    """What a run computes on: `device` "cpu", "cuda" or "mps"; `precision` "float32" or "bfloat16"."""

    device: str
    precision: str

    @property
    def fabric_precision(self) -> str:
        """Fabric's name for it; the weights stay float32 in both."""
        return "bf16-mixed" if self.precision == "bfloat16" else "32-true"

    @property
    def name(self) -> str:
        """The device as a person calls it."""
        if self.device == "cuda":
            return torch.cuda.get_device_name()
        return platform.processor() or platform.machine()


def find_hardware(config: RuntimeConfig) -> Hardware:
    """Resolve "auto" for device and precision.

    Raises:
        ConfigError: the device asked for is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    device = next(d for d in there if there[d]) if config.device == "auto" else config.device
    if not there[device]:
        raise ConfigError(f"no {device} device here", where="runtime.device", remedy="give cpu or auto")
    precision = config.precision
    if precision == "auto":
        precision = "bfloat16" if bfloat16_pays(device) else "float32"
    return Hardware(device, precision)


@cache
def bfloat16_pays(device: str) -> bool:
    """Whether matrix products are clearly faster in bfloat16: asked of CUDA, measured on a CPU (about 20
    ms).
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device == "cpu" and _product_seconds(torch.float32) > WORTH * _product_seconds(torch.bfloat16)


def _product_seconds(dtype: torch.dtype) -> float:
    matrix = torch.ones(512, 512, dtype=dtype)
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        taken.append(time.perf_counter() - start)
    return min(taken)
