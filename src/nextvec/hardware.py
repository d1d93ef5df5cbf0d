"""What the processor can do, asked of the processor: the same answer at every call, however busy it is."""

from __future__ import annotations


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
