"""From a configuration and a store to a model that is ready to learn: built, brought to the vectors' scale,
fitted where a part of it is fitted and not learned, and given to an optimiser."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nextvec.corpus.store import Store
from nextvec.data.batches import BatchSource
from nextvec.data.gather import VectorSource, gather_rows
from nextvec.data.least_squares import (
    BACK,
    DECAYS,
    AveragesFit,
    WeightSums,
    Wide,
    averaged_blocks,
    fit_listwise,
    fit_ridge,
    fit_ridge_on_averages,
)
from nextvec.data.splits import Split, fitting_documents
from nextvec.data.trained import TrainedOn
from nextvec.data.windows import IntArray, Windows, by_original, make_windows
from nextvec.errors import ConfigError, SplitError, WindowError
from nextvec.models.architectures.distilgpt2 import transfer
from nextvec.models.base import NextVectorModel
from nextvec.models.heads import MAX_ROWS
from nextvec.models.ops.parameters import hints_of
from nextvec.models.registry import build
from nextvec.models.residual import AveragesResidual, ExponentialResidual, RidgeResidual, WeightsResidual
from nextvec.objectives.sample import Statistics
from nextvec.training.config import OptimConfig, TrainConfig
from nextvec.training.muon import MuonWithAdamW

RANKING = "ranking query"  # among what the wrapped model hands over
FITTED = ("ema", "averages", "weights", "ridge")
"""Residuals that have a solution by least squares to start from."""
NOT_BACKBONE = tuple(
    f"{part}."
    for part in ("head", "further_heads", "ranker", "residual", "embed", "condition", "confidence", "gate")
)
"""What of a model is AdamW's beside Muon: all but the matrices in its middle."""
SAMPLED_ROWS = 8192
"""Vectors that distributions are compared with, at most; evenly spread over the documents."""


@dataclass(frozen=True)
class Start:
    """What a run starts from in place of fresh weights.

    Attributes:
        weights: the state of a model of the configuration's sizes, scale and baseline included.
        origin: where they come from, JSON; it stays with the run.
        keep_zeros: weights of matrices that are exactly 0 are not learned.
        trained_on: what the weights have seen already, beside what the run will be trained on.
    """

    weights: Mapping[str, Tensor]
    origin: Mapping[str, Any] = field(default_factory=dict)
    keep_zeros: bool = False
    trained_on: TrainedOn | None = None


def hold_zeros(model: nn.Module) -> None:
    """From now on the weights of matrices that are exactly 0 get no gradient. An optimiser that has not moved
    them yet then never does, and decay leaves 0 at 0."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.ndim > 1:
            kept = (parameter != 0).detach()
            if not kept.all():
                parameter.register_hook(partial(torch.mul, kept))  # type: ignore[no-untyped-call]


class TrainingWrapper(nn.Module):
    """The model as training sees it: everything over the model's scale, tensors in and out."""

    def __init__(self, model: NextVectorModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, x: Tensor, lengths: Tensor | None, target: Tensor, mask: Tensor, query: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """x [B, T, D] -> predictions [B, T, K, D], the model's own losses, and its extras."""
        prediction, own = self.model.learn(x, lengths, target, mask, query)
        extras = prediction.extras
        if prediction.query is not None:
            extras = {**extras, RANKING: prediction.query}
        return prediction.ahead / self.model.scale, own, extras


DECIDED_BY = {
    "horizons": "data.horizons",
    "conditional": "data.conditional",
    "confidence": "loss.continuation",
    "ranking": "loss.listwise",
}
"""Options of a network that its task or its objective decide -> the key that does."""


def model_options(config: TrainConfig) -> dict[str, Any]:
    """What a configuration says of the network over its preset: the options given, and what the task and the
    objective ask of any network.

    Raises:
        ConfigError: an option that task or objective decide is given another value.
    """
    own = {
        "horizons": len(config.data.horizons),
        "conditional": config.data.conditional > 0,
        "confidence": config.loss.continuation > 0,
        "ranking": config.loss.listwise > 0,
    }
    for key, value in own.items():
        if config.model.options.get(key, value) != value:
            raise ConfigError(
                f"is {config.model.options[key]}, but {DECIDED_BY[key]} makes it {value}",
                where=f"model.options.{key}",
                remedy=f"leave it out, and set {DECIDED_BY[key]}",
            )
    options = {key: value for key, value in own.items() if value is True or value > 1}
    return {**options, **config.model.options}


def build_model(store: Store, config: TrainConfig) -> NextVectorModel:
    """The network of a configuration, with fresh weights. Raises ModelError, ConfigError."""
    return build(config.model.name, config.model.preset, store.dimension, **model_options(config))


def split_batches(store: Store, split: Split, name: str, config: TrainConfig) -> BatchSource:
    """The batches of one split. Raises SplitError (no document in it) or WindowError (all are too short)."""
    documents = split.of(name)
    if not documents:
        raise SplitError(
            f"no document is in the split '{name}'",
            where=store.path,
            remedy=f"change data.split (its salt, or the share of {name}) or ingest more documents",
        )
    sampling = replace(config.data.sampling(config.optim.epochs), drawn=config.loss.drawn_negative)
    if name != "train":  # every target once, in no order of its own
        sampling = replace(sampling, mixing={}, curriculum="none")
    try:
        return BatchSource(
            store.vectors,
            Windows.of_documents(store.documents, documents),
            config.data.shape,
            config.optim.batch_size,
            seed=config.runtime.seed,
            workers=config.data.workers,
            sampling=sampling,
        )
    except WindowError as e:
        raise WindowError(e.message, where=f"split {name} of {store.path}", remedy=e.remedy) from None


def provenance(store: Store, config: TrainConfig, split: Split) -> dict[str, Any]:
    """What a saved model tells of its training: enough to refuse another encoder or a document it was trained
    on.
    """
    return {
        "encoder": store.encoder,
        "training": {
            "store": str(store.path.resolve()),
            "store_fingerprint": store.fingerprint,
            "chunker": store.info["chunker"],
            "normalised": store.normalised,
            "context": config.data.context,
            "min_context": config.data.min_context,
            "horizons": list(config.data.horizons),
            "task": config.data.task,
            "sources": list(config.data.sources),
            "split": asdict(config.data.split),
            "documents": len(split.train),
        },
    }


def fit_model(model: NextVectorModel, store: Store, config: TrainConfig, split: Split) -> dict[str, Any]:
    """Set what is not learned from scratch: scale, standardiser and baseline from the training vectors, and
    the weights of a pretrained body.

    Returns: the baseline's name and what it was found to be (see `fit_residual`); empty where it has nothing
        to be fitted.
    """
    if config.model.pretrained:
        transfer(model, config.model.pretrained)
    documents = Windows.of_documents(store.documents, fitting_documents(store, split.train))
    model.scale.fill_(input_scale(store, documents, config.model.scaling))
    fit_standardiser(model, store.vectors, rows_of(documents))
    if model.config.residual not in FITTED and model.ranker is None:
        return {}
    train, validation = (fitting_windows(store, split.of(n), config, model) for n in ("train", "validation"))
    if train is None:
        return {}
    found = fit_residual(model, store.vectors, train, validation)
    ranking = fit_ranking(model, store.vectors, train)
    return {**({"residual": model.config.residual, **found} if found else {}), **ranking}


def fitting_windows(
    store: Store, documents: Sequence[int], config: TrainConfig, model: NextVectorModel
) -> Windows | None:
    """The windows that the model's baseline is fitted on: the evaluation's, or of what context there is; None
    where there is not even one."""
    data = config.data
    longest = max((store.documents[i].count for i in documents), default=0) - data.horizons[0]
    context = data.context if data.task == "middle" else min(model.config.residual_context, longest)
    try:
        chosen = fitting_documents(store, documents)
        windows = make_windows(store, chosen, context, data.horizons[0], data.task)
    except WindowError:
        return None
    return by_original(windows, store.documents)


def input_scale(store: Store, documents: Windows, scaling: str) -> float:
    """What the network divides the vectors by: their norm (exactly 1 where they are stored as unit vectors),
    or the size of their components, which is sqrt(D) times smaller."""
    norm = 1.0 if store.normalised else rms_norm(store, documents)
    return norm / math.sqrt(store.dimension) if scaling == "component" else norm


def rms_norm(store: Store, documents: Windows) -> float:
    """Root mean square norm of the vectors of `documents`, summed in float64."""
    total = sum(float(np.square(block, dtype=np.float64).sum()) for block in blocks(store, documents))
    return float(np.sqrt(total / documents.count.sum()))


def statistics_of(store: Store, documents: Windows, scale: float) -> Statistics:
    """Mean and std of every dimension of the vectors of `documents` over `scale`, and a sample of them."""
    count = int(documents.count.sum())
    mean = sum(block.sum(0, dtype=np.float64) for block in blocks(store, documents)) / count
    # Around the mean, in a second pass: a difference of large sums would lose the digits of a small std.
    squares = sum(np.square(block - mean).sum(0) for block in blocks(store, documents))
    rows = rows_of(documents)
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), SAMPLED_ROWS)).astype(np.int64)]
    return Statistics(
        mean=torch.from_numpy(mean / scale).float(),
        std=torch.from_numpy(np.sqrt(squares / max(count - 1, 1)) / scale).float(),
        rows=torch.from_numpy(store.vectors.gather(chosen) / np.float32(scale)),
    )


def rows_of(documents: Windows) -> IntArray:
    return np.concatenate([np.arange(a, b) for a, b in zip(documents.first, documents.end, strict=True)])


def blocks(store: Store, documents: Windows) -> Iterable[np.ndarray[tuple[int, int], np.dtype[np.float32]]]:
    for first, end in zip(documents.first.tolist(), documents.end.tolist(), strict=True):
        yield store.vectors[first:end]


def make_optimiser(
    model: nn.Module,
    objective: nn.Module,
    config: OptimConfig,
    *,
    fused: bool,
    products: torch.dtype = torch.float32,
) -> torch.optim.Optimizer:
    """AdamW, or Muon with AdamW, over what model and objective learn, with the decay where `config.decay`
    wants it.

    A parameter may carry limits of its own (`models.ops.parameters`): the state matrices of S4 are learned
    slowly and never decayed. An objective's parameters are not decayed. With Muon the matrices of the
    backbone are its, and embeddings, heads, baselines and everything else AdamW's, as its authors advise
    (Jordan et al., Muon, 2024); it multiplies in `products`.
    """
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        own = hints_of(parameter)
        decays = config.decay == "all" or parameter.ndim > 1
        decay = own.get("weight_decay", config.weight_decay if decays else 0.0)
        muon = config.optimiser == "muon" and parameter.ndim == 2 and "max_lr" not in own
        muon = muon and not name.startswith(NOT_BACKBONE) and min(parameter.shape) > 1
        if parameter.requires_grad:
            groups.setdefault((muon, decay, own.get("max_lr", math.inf)), []).append(parameter)

    def order(group: tuple[tuple[bool, float, float], object]) -> tuple[bool, float, float]:
        (muon, decay, limit), _ = group
        return muon, -decay, -limit

    rest = [p for p in objective.parameters() if p.requires_grad]
    groups.setdefault((False, 0.0, math.inf), []).extend(rest)
    made = [
        {"params": parameters, "weight_decay": decay, "max_lr": limit, "muon": muon}
        for (muon, decay, limit), parameters in sorted(groups.items(), key=order)
        if parameters
    ]
    if config.optimiser == "adamw":
        return torch.optim.AdamW(made, lr=config.lr, fused=fused)
    return MuonWithAdamW(made, config.lr, config.muon_factor, products)


def fit_residual(
    model: NextVectorModel, vectors: VectorSource, train: Windows, validation: Windows | None
) -> dict[str, Any]:
    """Fit the residual `ema`, `averages`, `weights` or `ridge` of a model in place; others need no fit.

    An untrained model is then the evaluator's baseline of that kind, wherever it has read `residual_context`
    vectors (for `ema` and `averages`: at most 64). The residual serves the first horizon: cut the windows
    with that one.

    Args:
        validation: chooses how much `ridge` is shrunk; without it a tenth of the training documents does.
    Returns: what was found, for the run's record ("weights", and for ridge "lambda" and "positions"); empty
        where there was nothing to fit.
    """
    residual = model.residual
    if isinstance(residual, AveragesResidual):
        averaged = fit_ridge_on_averages(vectors, train, validation)
        table, deviation = _averaged(averaged)
        residual.fit(weights=torch.from_numpy(table), deviation=torch.from_numpy(deviation))
        return {"weights": _rounded(table), "lambda": averaged.penalty}
    if isinstance(residual, ExponentialResidual):
        weights = WeightSums.summed(averaged_blocks(vectors, train, DECAYS, BACK)).solve()
        residual.fit(weights=torch.from_numpy(weights))
        return {"weights": _rounded(weights)}
    if isinstance(residual, RidgeResidual):
        found = fit_ridge(vectors, train, validation, residual.context)
        table = _widened(found.table, residual.context)
        deviation = _deviation(found.matrix, found.table[-1], residual.context)
        residual.fit(weights=torch.from_numpy(table), deviation=torch.from_numpy(deviation))
        return {"weights": _rounded(table[-1]), "lambda": found.penalty, "positions": found.width}
    if isinstance(residual, WeightsResidual):
        table = WeightSums.of_positions(vectors, train, residual.context).triangle()
        residual.fit(weights=torch.from_numpy(table))
        return {"weights": _rounded(table[-1])}
    return {}


def fit_ranking(model: NextVectorModel, vectors: VectorSource, train: Windows) -> dict[str, Any]:
    """Fit the base of a model's ranker in place, where it has one: an untrained model then ranks as the
    evaluator's `listwise averages` do (for what is at most 256 chunks back).

    Returns: "ranking", the weights found; empty where there was nothing to fit.
    """
    if model.ranker is None:
        return {}
    found = fit_listwise(vectors, train)
    model.ranker.base.fit(weights=torch.from_numpy(found.weights))
    model.ranker.base.mean.copy_(torch.from_numpy(found.mean))
    return {"ranking": _rounded(found.weights)}


def fit_standardiser(model: NextVectorModel, vectors: VectorSource, rows: IntArray) -> None:
    """Fit the normaliser of a model, if it has one, to rows [N] of the store (those trained on).

    Of more than 131,072 rows, evenly spaced ones are read."""
    if model.standardiser is not None:
        taken = gather_rows(vectors, rows[:: -(-len(rows) // MAX_ROWS)])
        model.standardiser.fit(torch.from_numpy(taken).to(model.scale) / model.scale)


def _averaged(found: AveragesFit) -> tuple[Wide, Wide]:
    """A ridge on averages as weights [K] and what it adds to them [K, D, D], zero for averages not used."""
    D = found.matrix.shape[1]
    weights, deviation = np.zeros(len(DECAYS)), np.zeros((len(DECAYS), D, D))
    for k, decay in enumerate(found.decays):
        place = DECAYS.index(decay)
        weights[place] = found.weights[k]
        deviation[place] = found.matrix[k * D : (k + 1) * D] - found.weights[k] * np.eye(D)
    return weights, deviation


def _widened(table: Wide, context: int) -> Wide:
    """[w, w] weights for 1..w vectors -> [context, context]: with more than w, those of the last w."""
    width = len(table)
    wide = np.zeros((context, context))
    wide[:width, :width] = table
    wide[width:, :width] = table[-1]
    return wide


def _deviation(matrix: Wide, weights: Wide, context: int) -> Wide:
    """[w * D, D], earliest first, less the weights [w] by age (as a matrix) -> [context, D, D] by age."""
    D = matrix.shape[1]
    deviation = np.zeros((context, D, D))
    by_age = matrix.reshape(-1, D, D)[::-1]
    deviation[: len(by_age)] = by_age - weights[:, None, None] * np.eye(D)
    return deviation


def _rounded(weights: Wide) -> list[float]:
    return [round(float(weight), 4) for weight in weights]
