"""How the optimiser should treat a parameter apart from the others."""

from __future__ import annotations

from torch import nn

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
