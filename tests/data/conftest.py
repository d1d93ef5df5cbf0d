"""Documents whose vectors tell where they stand, and what the batches of them are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nextvec.data.batches import Batch
from nextvec.data.windows import SequenceShape, Windows


class Rows:
    """Vectors that tell which row they are: row r is (r + 1, -(r + 1), 0.5)."""

    def gather(self, rows: np.ndarray) -> np.ndarray:
        numbers = rows.astype(np.float32) + 1
        return np.stack([numbers, -numbers, np.full_like(numbers, 0.5)], axis=-1)


class Cosines:
    """Vectors of two dimensions, one a row, at these angles."""

    def __init__(self, angles: np.ndarray) -> None:
        self.vectors = np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        return self.vectors[rows]


def documents_of(counts: Sequence[int], gap: int = 0, sources: Sequence[str] | None = None) -> Windows:
    """Documents of these lengths, one after another with `gap` rows between them."""
    first = np.cumsum([0, *(c + gap for c in counts[:-1])])
    named = None if sources is None else np.array(sources)
    return Windows.whole(first.astype(np.int64), np.array(counts, np.int64), np.arange(len(counts)), named)


def owners(documents: Windows) -> dict[int, int]:
    """Row -> document."""
    return {
        row: int(number)
        for first, count, number in zip(documents.first, documents.count, documents.document, strict=True)
        for row in range(first, first + count)
    }


def rows_of(vectors: np.ndarray) -> np.ndarray:
    """The rows that vectors of `Rows` tell; -1 for padding."""
    return np.asarray(vectors[..., 0]).astype(np.int64) - 1


def pairs(batches: Iterator[Batch], horizons: tuple[int, ...] = (1,)) -> list[tuple[int, int, int, int]]:
    """(horizon, first row read, last row read, target row) of every position that counts, told from the
    vectors alone.
    """
    found = []
    for batch in batches:
        inputs, targets = rows_of(batch.inputs.numpy()), rows_of(batch.targets.numpy())
        if targets.ndim == 2:
            targets = targets[..., None]
        mask = batch.mask.numpy().reshape(targets.shape)
        for b, t, k in zip(*np.nonzero(mask), strict=True):
            found.append((horizons[k], int(inputs[b, 0]), int(inputs[b, t]), int(targets[b, t, k])))
    return found


def wanted(documents: Windows, shape: SequenceShape) -> list[tuple[int, int]]:
    """(horizon, row) of every target that must count, written the obvious way."""
    return [
        (horizon, first + target)
        for first, count in zip(documents.first.tolist(), documents.count.tolist(), strict=True)
        for target in range(count)
        for horizon in shape.horizons
        if target - horizon + 1 >= shape.min_context
    ]


def same(a: Sequence[Batch], b: Sequence[Batch]) -> bool:
    """Whether two lists of batches are equal to the last bit."""
    return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))


def _same(x: Batch, y: Batch) -> bool:
    both = [
        (x.inputs, y.inputs),
        (x.targets, y.targets),
        (x.mask, y.mask),
        (x.lengths, y.lengths),
        (x.broken, y.broken),
        (x.query, y.query),
    ]
    return (
        all(p is q if p is None or q is None else torch.equal(p, q) for p, q in both)
        and (x.documents == y.documents).all()
        and (x.full, x.positions) == (y.full, y.positions)
    )


@pytest.fixture(scope="session")
def world() -> SimpleNamespace:
    """All of this module."""
    return SimpleNamespace(
        Rows=Rows,
        Cosines=Cosines,
        documents_of=documents_of,
        owners=owners,
        rows_of=rows_of,
        pairs=pairs,
        wanted=wanted,
        same=same,
    )
