"""Validation of the model that was saved, in a way that anyone can repeat to the last digits.

Figures taken while training may come from bfloat16, from a GPU, and from weights in memory. What a run is
trusted for is the file: it is loaded again, in float32 on the CPU, and its errors are summed in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from nextvec.corpus.store import Store
from nextvec.data.batches import BatchSource
from nextvec.data.sampling import Spans
from nextvec.models.saving import load_model
from nextvec.training.config import TrainConfig


def saved_figures(
    run: Path, store: Store, config: TrainConfig, documents: Sequence[int]
) -> dict[str, float | int]:
    """Load the best model of a run folder and validate it on `documents`, cut as in training.

    Args:
        documents: indices into `store.documents`: the validation documents.
    Returns: "cosine" and "mse" (means over the targets) and "targets", their number.
    Raises:
        RunError: a damaged run. WindowError: the documents hold no target.
    """
    model, _ = load_model(run)
    batches = BatchSource(
        store.vectors, Spans.of(store.documents, documents), config.data.shape, config.optim.batch_size
    )
    cosine = mse = 0.0
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            for batch in batches.fixed():
                raw = model(batch.inputs, None if batch.full else batch.lengths).raw
                predicted, target = raw[batch.mask].double(), batch.targets[batch.mask].double()
                cosine += float(F.cosine_similarity(predicted, target, dim=-1).sum())
                mse += float((predicted - target).square().mean(dim=-1).sum())
    finally:
        torch.set_float32_matmul_precision(precision)
    n = batches.targets
    return {"cosine": cosine / n, "mse": mse / n, "targets": n}
