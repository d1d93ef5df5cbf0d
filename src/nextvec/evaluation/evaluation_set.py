"""What every predictor of one table is evaluated on: the same windows, targets and candidates."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nextvec.data.gather import VectorSource, gather_contexts, gather_queries, gather_rows
from nextvec.data.trained import TrainedOn, chunk_keys, key, known
from nextvec.data.windows import FloatArray, IntArray, Windows
from nextvec.errors import LeakError
from nextvec.evaluation.predictor_protocol import unit
from nextvec.evaluation.ranking import Pool, ranks

if TYPE_CHECKING:
    from nextvec.corpus.store import Store

BLOCK_BYTES = 64 * 2**20
BLOCK_WINDOWS = 1024
PREFIXES = 16  # contexts that are read at once for all of their windows
CONTRASTIVE_BATCH = 256
SAMPLES = 8


def context_blocks(
    vectors: VectorSource, windows: Windows, width: int
) -> Iterator[tuple[IntArray, FloatArray, IntArray]]:
    """Windows by their indices [B], with their contexts [B, T, D] (the last `width` read) and lengths [B].

    The windows that read least come first, so that a block is hardly wider than what it holds.
    """
    order = np.argsort(windows.read, kind="stable")
    start = 0
    while start < len(order):
        widest = min(width, int(windows.read[order[min(start + BLOCK_WINDOWS, len(order)) - 1]]))
        size = max(1, min(BLOCK_WINDOWS, BLOCK_BYTES // (4 * widest * vectors.shape[1])))
        piece = order[start : start + size]
        block = windows.select(piece)
        yield piece, *gather_contexts(vectors, block, min(width, int(block.read[-1])))
        start += size


class EvaluationSet:
    """Windows with their true next vectors, and the candidates.

    Args:
        vectors: the store's, raw.
        windows: N of them.
        pool: the candidates, made from the same windows.
        train_mean: [D] mean of the vectors trained on; None where nothing was trained.
        seed: of the batches of `contrastive_accuracy`.
        samples: how many vectors a window a generative predictor is asked for; 0: none of them is.
    """

    def __init__(
        self,
        vectors: VectorSource,
        windows: Windows,
        pool: Pool,
        train_mean: FloatArray | None = None,
        seed: int = 0,
        samples: int = SAMPLES,
    ) -> None:
        self.vectors, self.windows, self.pool = vectors, windows, pool
        self.train_mean, self.seed, self.samples = train_mean, seed, samples

    def __len__(self) -> int:
        return len(self.windows)

    def select(self, which: NDArray[np.bool_] | IntArray | slice) -> EvaluationSet:
        """The same evaluation set with some of its windows only."""
        windows, pool = self.windows.select(which), self.pool.select(which)
        return EvaluationSet(self.vectors, windows, pool, self.train_mean, self.seed, self.samples)

    @property
    def dimension(self) -> int:
        return self.vectors.shape[1]

    def ranks(self, units: FloatArray) -> IntArray:
        """[N] rank of each target among the candidates, 1 the best, for predictions [N, D] of unit length."""
        return ranks(units, self.vectors, self.pool)

    @cached_property
    def targets(self) -> FloatArray:
        """[N, D] the true next vectors, raw."""
        return gather_rows(self.vectors, self.windows.target)

    @cached_property
    def target_units(self) -> FloatArray:
        """[N, D] the true next vectors at unit length."""
        return unit(self.targets)

    @cached_property
    def last_units(self) -> FloatArray:
        """[N, D] the last vectors read, at unit length."""
        return unit(gather_rows(self.vectors, self.windows.last))

    def blocks(self, width: int) -> Iterator[tuple[IntArray, FloatArray, IntArray]]:
        return context_blocks(self.vectors, self.windows, width)

    def prefixes(self, width: int) -> Iterator[tuple[IntArray, FloatArray, IntArray]]:
        """What windows have in common that begin at the same chunk and read at most `width`: one context,
        longest first, and all of them are answered by what is said at its positions.

        Yields: numbers of the windows, [B, T, D] contexts, and for each of the windows its context b and
        position t as [n, 2].
        """
        windows = self.windows
        able = np.flatnonzero(windows.read <= width) if windows.task == "next" else np.empty(0, np.int64)
        starts, which = np.unique(windows.start[able], return_inverse=True)
        longest = np.zeros(len(starts), dtype=np.int64)
        np.maximum.at(longest, which, windows.read[able])
        order = np.argsort(longest, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        for begin in range(0, len(order), PREFIXES):
            some = order[begin : begin + PREFIXES]
            mine = (rank[which] >= begin) & (rank[which] < begin + len(some))
            place = np.arange(int(longest[some].max()))
            rows = starts[some, None] + np.minimum(place, longest[some, None] - 1)
            at = np.stack([rank[which[mine]] - begin, windows.read[able[mine]] - 1], axis=1)
            yield able[mine], gather_rows(self.vectors, rows), at

    def queries(self, piece: IntArray) -> FloatArray | None:
        """[B, D] what a conditional predictor is given for these windows; None where there are no queries."""
        return gather_queries(self.vectors, self.windows.select(piece))

    def nearest_in_context(self, units: FloatArray) -> FloatArray:
        """[N] the largest cosine of each of `units` [N, D] to the last `context` vectors read."""
        best = np.empty(len(self), dtype=np.float32)
        for piece, contexts, _ in self.blocks(self.windows.context):
            best[piece] = np.einsum("btd,bd->bt", unit(contexts), units[piece]).max(axis=1)
        return best

    @cached_property
    def target_nearest_in_context(self) -> FloatArray:
        """[N] `nearest_in_context` of the targets themselves."""
        return self.nearest_in_context(self.target_units)

    @cached_property
    def batches(self) -> list[IntArray]:
        """The windows in random batches of up to 256, the same for every predictor."""
        order = np.random.default_rng(self.seed).permutation(len(self)).astype(np.int64)
        return [order[a : a + CONTRASTIVE_BATCH] for a in range(0, len(order), CONTRASTIVE_BATCH)]


# The leak guard: what stands in training is not evaluated on, and much of it is refused outright.

LIMIT = 0.1
MOST_DROPPED = 0.5


@dataclass(frozen=True)
class Leaks:
    """How many windows were dropped, by the first reason that applies, and of how many `causes`: documents,
    and different target texts. A footer that a hundred pages share is one cause."""

    windows: int
    same_document_id: int
    same_document_text: int
    same_target_text: int
    causes: int = 0

    @property
    def dropped(self) -> int:
        return self.same_document_id + self.same_document_text + self.same_target_text


def without_leaks(
    store: Store, windows: Windows, trained: TrainedOn, *, split: str, limit: float = LIMIT
) -> tuple[Windows, Leaks]:
    """The windows whose document and target text do not stand in training, and the count of the others.

    Args:
        limit: share of the documents, and of the different target texts, that may stand in training. One
            text alone is never too many: it is dropped and says nothing about the others.
    Raises:
        LeakError: more than `limit` of them do, or over half of the windows would be dropped (`limit` of more
            than that allows it): what resembles training without being equal to it cannot be told then.
    """
    documents, which = np.unique(windows.document, return_inverse=True)
    held = [store.documents[i] for i in documents]
    ids = known(trained.ids, (key(d.original) for d in held))
    texts = known(trained.documents, (key(d.sha256) for d in held)) & ~ids
    targets = chunk_keys(store, windows.target)
    by_id, by_text = ids[which], texts[which]
    by_target = known(trained.chunks, targets) & ~by_id & ~by_text
    repeated = len(np.unique(targets[by_target]))
    leaks = Leaks(
        len(windows),
        int(by_id.sum()),
        int(by_text.sum()),
        int(by_target.sum()),
        int((ids | texts).sum()) + repeated,
    )
    share = max(
        float((ids | texts).mean()) if len(held) else 0.0,
        repeated / len(np.unique(targets)) if repeated > 1 else 0.0,
    )
    if share > limit or leaks.dropped > max(limit, MOST_DROPPED) * leaks.windows:
        raise _leak(store, leaks, split, max(share, leaks.dropped / leaks.windows), limit)
    return windows.select(~(by_id | by_text | by_target)), leaks


def _leak(store: Store, leaks: Leaks, split: str, share: float, limit: float) -> LeakError:
    """The refusal, with the command that goes on."""
    remedy = "evaluate documents that were not trained on: --split test"
    if leaks.same_target_text:
        remedy += "; or ingest the sources again without what recurs: nextvec ingest --drop-boilerplate"
    allowed = min(1.0, math.ceil(100 * share) / 100)
    remedy += f"; or go on without these windows: nextvec evaluate --leak-limit {allowed:g}"
    return LeakError(
        f"{leaks.dropped} of {leaks.windows} windows stand in training "
        f"({leaks.same_document_id} by document id, {leaks.same_document_text} by document text, "
        f"{leaks.same_target_text} by target text): {100 * share:.0f} % of the documents or different texts, "
        f"more than {100 * limit:g} %",
        where=f"split {split} of {store.path}",
        remedy=remedy,
    )
