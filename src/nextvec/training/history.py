"""What is measured while training, and history.jsonl: one line an epoch."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from nextvec.disk import write_lines
from nextvec.errors import MissingDependencyError, RunError
from nextvec.objectives.combine import Loss, Objective
from nextvec.objectives.terms import cosine_similarity
from nextvec.seals import unsealed

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

HISTORY = "history.jsonl"
STD_FLOOR = 0.01
"""The brief's threshold for a per-dimension std; reported beside the encoder's own share, never enforced."""


def sum_dtype(device: torch.device) -> torch.dtype:
    """Sums run in float64, but for MPS, which has none."""
    return torch.float32 if device.type == "mps" else torch.float64


class RunningMeans:
    """Means over an epoch, summed on the device so that no update waits for it; weighted by positions.

    `sums` holds one number per name and, last, the weight; it is what a checkpoint keeps of it.
    """

    def __init__(self, names: tuple[str, ...], device: torch.device) -> None:
        self.names = names
        self.sums = torch.zeros(len(names) + 1, dtype=sum_dtype(device), device=device)

    def add(self, values: Mapping[str, Tensor], weight: int) -> None:
        """Count the scalars `values` with `weight`."""
        row = torch.stack([values[name].detach().to(self.sums.dtype) for name in self.names])
        self.sums[:-1] += row * weight
        self.sums[-1] += weight

    def means(self) -> dict[str, float]:
        *sums, weight = self.sums.tolist()
        return {name: total / max(weight, 1.0) for name, total in zip(self.names, sums, strict=True)}


def loss_names(objective: Objective) -> tuple[str, ...]:
    """What the history calls the loss and its terms: "loss", "loss.mse"..."""
    return ("loss", *(f"loss.{name}" for name in objective.weights))


def loss_values(loss: Loss) -> dict[str, Tensor]:
    """A batch's loss and its terms under those names."""
    return {"loss": loss.total, **{f"loss.{name}": value for name, value in loss.terms.items()}}


class RunningMoments:
    """Mean and variance of every dimension of vectors that come in batches, in one pass."""

    def __init__(self, dimension: int, device: torch.device) -> None:
        self.count = 0
        self.sums = torch.zeros(2, dimension, dtype=sum_dtype(device), device=device)

    def add(self, vectors: Tensor) -> None:
        wide = vectors.to(self.sums.dtype)
        self.count += len(wide)
        self.sums += torch.stack([wide.sum(0), wide.square().sum(0)])

    @property
    def variance(self) -> Tensor:
        """Variance of every dimension, [D]."""
        mean, square = (self.sums / max(self.count, 1)).unbind()
        return (square - mean.square()).clamp(min=0)


def spread(predicted: RunningMoments, encoded: RunningMoments) -> dict[str, float]:
    """How much the predictions vary, beside the encoder's own vectors at the same places.

    `variance_ratio` is total variance over total variance; the rest is about the std of single dimensions:
    the mean of the predicted over the mean of the encoded, the smallest, and the share of dimensions above
    0.01 of both. (Not the mean of ratios: published encoders have dimensions that hardly vary.)
    """
    ours, theirs = predicted.variance.sqrt(), encoded.variance.sqrt()
    tiny = torch.finfo(ours.dtype).tiny
    return {
        "variance_ratio": float(predicted.variance.sum() / encoded.variance.sum().clamp(min=tiny)),
        "std_ratio": float(ours.mean() / theirs.mean().clamp(min=tiny)),
        "std_min": float(ours.min()),
        "std_min_encoder": float(theirs.min()),
        "std_above_0.01": float((ours > STD_FLOOR).float().mean()),
        "std_above_0.01_encoder": float((theirs > STD_FLOOR).float().mean()),
    }


class ValidationMeter:
    """Collects what one pass over the validation batches says."""

    def __init__(self, losses: tuple[str, ...], dimension: int, device: torch.device) -> None:
        self.means = RunningMeans((*losses, "cosine", "mse"), device)
        self.predicted, self.encoded = RunningMoments(dimension, device), RunningMoments(dimension, device)

    def add(self, values: Mapping[str, Tensor], prediction: Tensor, target: Tensor, mask: Tensor) -> None:
        """Count one batch: loss `values`, raw prediction and target [B, T, D] where mask [B, T] is True."""
        p, t = prediction[mask], target[mask]
        errors = {"cosine": cosine_similarity(p, t).mean(), "mse": (p - t).square().mean()}
        self.means.add({**values, **errors}, len(p))
        self.predicted.add(p)
        self.encoded.add(t)

    def result(self) -> dict[str, float]:
        return {**self.means.means(), **spread(self.predicted, self.encoded)}


def read_history(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's history. Raises RunError when it is missing, empty or not what was written, or
    a line is not JSON (file:line)."""
    path = run / HISTORY
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise RunError(f"cannot be read ({e})", where=path) from None
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise _damaged(f"is not JSON ({e})", f"{path}:{number}") from None
        if not isinstance(found, dict):
            raise _damaged("is not a JSON object", f"{path}:{number}")
        lines.append(found)
    if not lines:
        raise _damaged("is empty", path)
    lines[0] = unsealed(lines[0], text, path, RunError, "restore the file", first=True)
    return lines


def write_history(run: Path, lines: list[dict[str, Any]]) -> None:
    """Write all lines, atomically: a crash leaves the history of one epoch less, never half a line."""
    write_lines(run / HISTORY, lines)


# A run's history as the diagnosis reads it: every line checked, so that a damaged one is named.

NEEDED = {"train": ("loss", "cosine"), "validation": ("loss", "cosine")}


@dataclass(frozen=True)
class Epoch:
    """One line of history.jsonl.

    Attributes:
        update: optimiser steps done by the end of the epoch.
        train, validation: figure -> value; "loss", "cosine" and, one a term, "loss.<term>" at least.
        lr: of the epoch's last update.
        gradient_norm: mean over the epoch's updates, before clipping.
        term_gradients: term -> norm of its weighted gradient at the epoch's first batch.
        seconds: of the run so far; train_seconds: of this epoch's updates alone.
        positions: targets trained on in this epoch.
    """

    epoch: int
    update: int
    train: dict[str, float]
    validation: dict[str, float]
    lr: float
    gradient_norm: float
    term_gradients: dict[str, float]
    seconds: float
    train_seconds: float
    positions: int

    @classmethod
    def from_json(cls, line: Mapping[str, Any], where: str) -> Epoch:
        """Check one line. Raises RunError naming `where` (file:line) and the key."""
        figures = {name: _numbers(line, name, where) for name in NEEDED}
        for name, keys in NEEDED.items():
            for key in keys:
                _number(figures[name], key, where, f"{name}.{key}")
        return cls(
            epoch=_whole(line, "epoch", where),
            update=_whole(line, "update", where),
            train=figures["train"],
            validation=figures["validation"],
            lr=_number(line, "lr", where),
            gradient_norm=_number(line, "gradient_norm", where),
            term_gradients=_numbers(line, "term_gradient_norms", where),
            seconds=_number(line, "seconds", where),
            train_seconds=_number(line, "train_seconds", where),
            positions=_whole(line, "positions", where),
        )

    @property
    def terms(self) -> tuple[str, ...]:
        """The loss terms, without the prefix."""
        return tuple(k.removeprefix("loss.") for k in self.train if k.startswith("loss."))

    @property
    def speed(self) -> float:
        """Targets a second while training."""
        return self.positions / max(self.train_seconds, 1e-9)


@dataclass(frozen=True)
class RunRecord:
    """What a run folder says of its training.

    Attributes:
        rates: the learning rate planned for the last update of each epoch; None where the run does not say
            how long it was meant to be.
        planned_epochs, clip, schedule: from its configuration.
        targets: training targets of one epoch; None where the run does not say.
        stopped: why it ended; None while it is unfinished.
        best_epoch, best_cosine: what its result claims; None while it is unfinished.
        device, precision: what it computed on, and in.
    """

    run: str
    model: str
    epochs: tuple[Epoch, ...]
    rates: tuple[float, ...] | None
    planned_epochs: int
    schedule: str
    clip: float
    targets: int | None
    stopped: str | None
    best_epoch: int | None
    best_cosine: float | None
    device: str
    precision: str

    @property
    def best(self) -> Epoch:
        """The epoch of the highest validation cosine, the first of equals."""
        return max(self.epochs, key=lambda e: e.validation["cosine"])


def _damaged(message: str, where: str | Path) -> RunError:
    return RunError(message, where=where, remedy="restore the file")


def _number(table: Mapping[str, Any], key: str, where: str, name: str | None = None) -> float:
    value = table.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _damaged(f"key '{name or key}' is missing or not a number", where)
    return value


def _whole(table: Mapping[str, Any], key: str, where: str) -> int:
    value = _number(table, key, where)
    if not isinstance(value, int) or value < 0:
        raise _damaged(f"key '{key}' is not a count", where)
    return value


def _numbers(table: Mapping[str, Any], key: str, where: str) -> dict[str, float]:
    found = table.get(key)
    if not isinstance(found, Mapping):
        raise _damaged(f"key '{key}' is missing or not a table", where)
    return {str(k): _number(found, k, where, f"{key}.{k}") for k in found}


FOLDER = "tensorboard"


class Scalars:
    """The history of a run for TensorBoard, in RUN/tensorboard: writes each epoch as `train` tells of it (its
    `after_epoch`), and before that those that it finds.

    What was written there before is replaced, so that a resumed run has each epoch once, those trained
    without TensorBoard too. Steps are updates. Nothing is written before the run has an epoch to show.

    Raises:
        MissingDependencyError: TensorBoard is not installed.
    """

    def __init__(self, run: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingDependencyError(
                "tensorboard is not installed",
                where="--tensorboard",
                remedy="pip install nextvec[tensorboard]",
            ) from None
        self.run = run
        self._open: type[SummaryWriter] = SummaryWriter
        self._writer: SummaryWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writer is None and kind is None:
            self._catch_up()  # a finished run that was resumed has no further epoch to tell
        if self._writer is not None:
            self._writer.close()

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Write one line of the history, the latest of the run's."""
        if self._writer is None:
            self._catch_up()
        else:
            self._write(self._writer, line, time.time())

    def _catch_up(self) -> None:
        """Open the folder anew, with every epoch so far."""
        if not (self.run / HISTORY).is_file():
            return
        folder = self.run / FOLDER
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = self._open(str(folder))
        lines = read_history(self.run)
        for line in lines:
            self._write(self._writer, line, time.time() - lines[-1]["seconds"] + line["seconds"])

    def _write(self, writer: SummaryWriter, line: Mapping[str, Any], at: float) -> None:
        for name, value in scalars(line):
            writer.add_scalar(name, value, line["update"], at)
        writer.flush()


def scalars(line: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a line of the history: "lr", "train/loss", "validation/cosine"..."""
    for name, value in line.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{name}/")
        elif name != "update":
            yield prefix + name, value
