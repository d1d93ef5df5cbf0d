"""Which number format the encoder runs in: measured on the processor at hand, not guessed from its name."""

from __future__ import annotations

import functools
import logging
import time

from nextvec.errors import EncoderError

log = logging.getLogger("nextvec.corpus")

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
    """ "auto" -> "bfloat16" where the processor is faster in it, else "float32"; the choice is logged.

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
        chosen = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
        log.info("encoding in %s on %s", chosen, device)
        return chosen
    if device != "cpu":
        return "float32"
    speedup = bfloat16_speedup()
    chosen = "bfloat16" if speedup >= WORTHWHILE else "float32"
    log.info("encoding in %s: a bfloat16 product runs %.1f times as fast as float32 here", chosen, speedup)
    return chosen
