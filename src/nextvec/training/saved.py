"""Validation of the model that was saved, in a way that anyone can repeat to the last digits.

Figures taken while training may come from bfloat16, from a GPU, and from weights in memory. What a run is
trusted for is the file: it is loaded again, in float32 on the CPU, and its errors are summed in float64.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from nextvec.data.batches import Batch, BatchSource
from nextvec.models.base import NextVectorModel
from nextvec.models.heads import Prediction, UnitHead, fit_temperature, last_linear
from nextvec.models.saving import exact, load_model, save_model

BINS = 15
"""Of the expected calibration error, as in Guo et al. 2017."""


def saved_figures(run: Path, batches: BatchSource) -> dict[str, float | int]:
    """Load the best model of a run folder and validate it.

    Args:
        batches: of the validation documents, cut as in training.
    Returns: "cosine" and "mse" (means over the targets of all horizons), "targets", their number, and for a
        model with confidence "calibration_error" and "brier", of the probability that a candidate continues
        its context, over true and broken continuations.
    Raises:
        RunError: a damaged run. WindowError: the documents hold no target.
    """
    model, _ = load_model(run)
    cosine = mse = 0.0
    count = 0
    continuations: list[tuple[Tensor, Tensor]] = []
    with exact():
        for batch in batches.fixed():
            prediction = _predicted(model, batch)
            ahead = prediction.ahead if batch.targets.ndim == 4 else prediction.raw
            predicted, target = ahead[batch.mask].double(), batch.targets[batch.mask].double()
            cosine += float(F.cosine_similarity(predicted, target, dim=-1).sum())
            mse += float((predicted - target).square().mean(dim=-1).sum())
            count += len(target)
            continuations += _continuations(model, prediction, batch)
    figures: dict[str, float | int] = {"cosine": cosine / count, "mse": mse / count, "targets": count}
    if model.confidence is not None and continuations:
        logits, truth = (torch.cat(each) for each in zip(*continuations, strict=True))
        probability, truth = model.confidence.probability(logits).double(), truth.double()
        figures["calibration_error"] = calibration_error(probability, truth)
        figures["brier"] = float((probability - truth).square().mean())
    return figures


def calibrate(run: Path, batches: BatchSource) -> None:
    """Fit the temperature of the best model's confidence on validation and save the model with it.

    Does nothing to a model without confidence.
    """
    model, info = load_model(run)
    if model.confidence is None:
        return
    with exact():
        evaluated = [one for b in batches.fixed() for one in _continuations(model, _predicted(model, b), b)]
    model.confidence.temperature.fill_(fit_temperature(*map(torch.cat, zip(*evaluated, strict=True))))
    save_model(run, model, info)


def keep_misses(run: Path, batches: BatchSource) -> None:
    """Bring the output of the model in `run` to the length that misses least on validation, and save it with
    what it then misses on evenly spaced validation windows, in random order.

    Does nothing to a model that keeps no misses.
    """
    model, info = load_model(run)
    if model.misses is None:
        return
    missed: list[Tensor] = []
    with exact():
        _fit_length(model, batches)
        for batch in batches.fixed():
            target, mask = _nearest(batch)
            missed.append((target - _predicted(model, batch).raw)[mask] / model.scale)
    found = torch.cat(missed)
    count = len(model.misses.values)
    places = torch.linspace(0, len(found) - 1, count).round().long()  # some twice where there are fewer
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    model.misses.values.copy_(found[places[shuffled]])
    save_model(run, model, info)


def _fit_length(model: NextVectorModel, batches: BatchSource) -> None:
    """Multiply `raw` by the number that makes its squared error least: an objective of directions alone
    leaves its length to chance. Directions and ranks do not change.

    A model whose output is not linear in parameters of its own keeps its length.
    """
    residual, heads = model.config.residual, (model.head, *model.further_heads)
    shifted = residual == "none" and model.standardiser is not None
    if shifted or residual in ("mean", "last") or isinstance(model.head, UnitHead):
        return
    both = own = 0.0
    for batch in batches.fixed():
        target, mask = _nearest(batch)
        raw = _predicted(model, batch).raw[mask].double()
        both += float((raw * target[mask]).sum())
        own += float(raw.square().sum())
    if both <= 0:  # no length makes such a direction better than saying nothing
        return
    for module in (*map(last_linear, heads), model.residual):
        for parameter in module.parameters():
            parameter.mul_(both / own)


def _predicted(model: NextVectorModel, batch: Batch) -> Prediction:
    found: Prediction = model(batch.inputs, None if batch.full else batch.lengths, batch.query)
    return found


def _nearest(batch: Batch) -> tuple[Tensor, Tensor]:
    """Targets [B, T, D] and mask [B, T] of the nearest horizon."""
    if batch.targets.ndim == 4:
        return batch.targets[..., 0, :], batch.mask[..., 0]
    return batch.targets, batch.mask


def _continuations(
    model: NextVectorModel, prediction: Prediction, batch: Batch
) -> list[tuple[Tensor, Tensor]]:
    """Of the nearest horizon: logits [N] of a batch's true and broken continuations, labels [N]: 1 and 0;
    nothing of a model without confidence or a batch without broken ones."""
    if model.confidence is None or batch.broken is None:
        return []
    targets, mask = _nearest(batch)
    evaluated = mask | batch.broken
    return [(model.continuation(prediction, targets)[evaluated], mask[evaluated].float())]


def calibration_error(probability: Tensor, label: Tensor) -> float:
    """Expected calibration error of probabilities [N] against labels [N] of 0 or 1, in 15 equal bins.

    The mean over bins, weighted by what falls into them, of |mean probability - share of ones| (Guo et al.,
    On Calibration of Modern Neural Networks, 2017, equation 3, for a binary event).
    """
    which = (probability * BINS).long().clamp(max=BINS - 1)
    gap = torch.zeros(BINS, dtype=torch.float64).index_add_(0, which, probability.double() - label.double())
    return float(gap.abs().sum() / len(label))
