"""Which device and number format the encoder runs in."""

from __future__ import annotations

from nextvec.errors import EncoderError
from nextvec.hardware import native_bfloat16

PRECISIONS = ("auto", "float32", "bfloat16")


def choose_device(device: str) -> str:
    """ "auto" -> cuda, mps or cpu, whichever is there first. Raises EncoderError for one that is not."""
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there.get(device.partition(":")[0], False):
        raise EncoderError(f"device '{device}' is not there", remedy="choose auto, cpu, cuda or mps")
    return device


def choose_precision(precision: str, device: str) -> str:
    """ "auto" -> "bfloat16" where the processor has it, else "float32".

    The choice is part of the encoder's `path`, which every shard and every ingest's report tells.

    Raises:
        EncoderError: an unknown precision.
    """
    if precision not in PRECISIONS:
        raise EncoderError(
            f"unknown precision '{precision}'", remedy=f"choose one of: {', '.join(PRECISIONS)}"
        )
    if precision != "auto":
        return precision
    return "bfloat16" if native_bfloat16(device) else "float32"
