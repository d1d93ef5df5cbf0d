"""Parameters that stand apart: those the optimiser treats otherwise, and those that must not be rounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

HINTS = ("weight_decay", "max_lr")


def treat(parameter: nn.Parameter, **hints: float) -> nn.Parameter:
    """Attach hints to a parameter: `weight_decay` replaces the run's, `max_lr` caps the learning rate.

    They are the attribute `optim` of the parameter, which stays when the module is moved or saved and loaded,
    but not in a deep copy. Returns: the same parameter.
    """
    unknown = hints.keys() - set(HINTS)
    if unknown:
        raise TypeError(f"no such hint: {', '.join(sorted(unknown))}")
    vars(parameter)["optim"] = hints
    return parameter


def hints_of(parameter: nn.Parameter) -> dict[str, float]:
    """The hints of a parameter; empty for most."""
    found: dict[str, float] = getattr(parameter, "optim", {})
    return found


def count_parameters(model: nn.Module) -> int:
    """Number of learned values."""
    return sum(p.numel() for p in model.parameters())


def wide(dtype: torch.dtype) -> torch.dtype:
    """The precision of transforms, long sums and sensitive parameters: `dtype`, but float32 at least."""
    kind: torch.dtype = torch.promote_types(dtype, torch.float32)
    return kind


def finest(device: torch.device) -> torch.dtype:
    """float64, but on devices that do not have it."""
    return torch.float32 if device.type == "mps" else torch.float64


class Precise(nn.Module):
    """Base of modules that a rounding to bfloat16 would turn into others: rates raised to high powers, phases
    of sines. `.to(torch.bfloat16)`, `.half()` and the like leave their parameters float32."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def apply(value: Tensor) -> Tensor:
            found = fn(value)
            if not found.is_floating_point() or found.dtype == wide(found.dtype):
                return found
            return value.to(found.device, wide(found.dtype))

        return super()._apply(apply, recurse)  # type: ignore[no-untyped-call, no-any-return]
