"""Which device and which precision a run takes, found out at run time."""

from __future__ import annotations

import platform
from dataclasses import dataclass

import torch

from nextvec.errors import ConfigError
from nextvec.hardware import native_bfloat16
from nextvec.training.config import RuntimeConfig


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
        precision = "bfloat16" if native_bfloat16(device) else "float32"
    return Hardware(device, precision)
