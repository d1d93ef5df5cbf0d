"""The smallest weights set to zero, the same share of every matrix (Han et al., Learning both Weights and
Connections, 2015). The matrices stay dense: this makes nothing faster or smaller."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn

from nextvec.models.base import NextVectorModel


def zeroed(model: NextVectorModel, keep: float) -> NextVectorModel:
    """A copy, in eval mode on the CPU, with the share `keep` of every matrix: its largest weights."""
    found = deepcopy(model).cpu().eval()
    with torch.no_grad():
        for matrix in matrices(found):
            gone = matrix.numel() - round(keep * matrix.numel())
            smallest = torch.argsort(matrix.abs().flatten(), stable=True)[:gone]
            matrix.view(-1)[smallest] = 0.0
    return found


def matrices(model: NextVectorModel) -> Iterator[Tensor]:
    """The weights of linear and recurrent layers, but for those of the baseline beside the network."""
    for name, module in model.named_modules():
        if name.partition(".")[0] == "residual":
            continue
        if isinstance(module, nn.Linear):
            yield module.weight
        elif isinstance(module, nn.RNNBase):
            yield from (p for key, p in module.named_parameters() if key.startswith("weight"))


def nonzero(model: nn.Module) -> int:
    """Number of learned values that are not 0."""
    return sum(int(parameter.count_nonzero()) for parameter in model.parameters())
