"""Which device and which precision a run takes, asked of the processor: the same answer at every call,
however busy it is."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Literal

from nextvec.config import Checked, number
from nextvec.errors import ConfigError


@dataclass(frozen=True)
class RuntimeConfig(Checked):
    """Where and how it runs.

    Attributes:
        device: "auto" takes CUDA, then MPS, then the CPU.
        precision: "auto" takes bfloat16 (autocast) where the processor computes faster in it.
        seed: of the initial weights, the order of the batches and the dropout.
        threads: of torch on the CPU; 0 leaves torch's own number.
        checkpoint_every_s: seconds between checkpoints inside an epoch (there is one after each epoch
            anyway).
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = number(0, least=0)
    threads: int = number(0, least=0)
    checkpoint_every_s: float = number(300.0, least=0)


def native_bfloat16(device: str) -> bool:
    """Whether matrix products run in bfloat16 instructions there: several times as fast as float32.

    On a CPU this is AVX512-BF16 or AMX. Measuring the speed instead chose differently from run to run on a
    busy machine, and with it the bytes of a store.
    """
    import torch

    kind = device.partition(":")[0]
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return kind == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


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
        import torch

        if self.device == "cuda":
            return torch.cuda.get_device_name()
        return platform.processor() or platform.machine()


def find_hardware(config: RuntimeConfig) -> Hardware:
    """Resolve "auto": a GPU where there is one, bfloat16 where the processor computes faster in it.

    Raises:
        ConfigError: the device asked for is not there.
    """
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    device = next(d for d in there if there[d]) if config.device == "auto" else config.device
    if not there[device]:
        raise ConfigError(f"no {device} device here", where="runtime.device", remedy="give cpu or auto")
    precision = config.precision
    if precision == "auto":
        precision = "bfloat16" if native_bfloat16(device) else "float32"
    return Hardware(device, precision)
