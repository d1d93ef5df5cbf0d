"""Which number format the encoder runs in: measured on the processor at hand, not guessed from its name."""

from __future__ import annotations

import functools
import time

from nextvec.errors import EncoderError

PRECISIONS = ("auto", "float32", "bfloat16")
WORTHWHILE = 1.5
"""Speed of a bfloat16 matrix product over a float32 one from which bfloat16 is taken."""


@functools.lru_cache(maxsize=1)
def bfloat16_speedup() -> float:
    """How many times faster one encoder-sized matrix product [512, 384] x [384, 1536] is in bfloat16."""
    import torch

    def seconds(dtype: torch.dtype) -> float:
        x, w = torch.ones(512, 384, dtype=dtype), torch.ones(384, 1536, dtype=dtype)
        best = float("inf")
        for _ in range(8):
            started = time.perf_counter()
            x @ w
            best = min(best, time.perf_counter() - started)
        return best

    return seconds(torch.float32) / seconds(torch.bfloat16)


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
    """ "auto" -> "bfloat16" where the processor is faster in it, else "float32".

    The choice is part of the encoder's `path`, which every shard and every ingest's report tells.

    Raises:
        EncoderError: an unknown precision.
    """
    import torch

    if precision not in PRECISIONS:
        raise EncoderError(
            f"unknown precision '{precision}'", remedy=f"choose one of: {', '.join(PRECISIONS)}"
        )
    if precision != "auto":
        return precision
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device != "cpu":
        return "float32"
    return "bfloat16" if bfloat16_speedup() >= WORTHWHILE else "float32"
