"""Which window of which document stands in which batch of which epoch: a pure function of (documents, shape,
sampling, seed, epoch).

Curricula take easy things first, over the first epochs of a run, then everything: "context" reads from one
chunk at first (of task middle: one on either side) to all that a window may have; "coherence" trains on the
windows whose neighbouring chunks are most alike first, then on more and more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from nextvec.data.windows import IntArray, SequenceShape, Windows
from nextvec.errors import ConfigError

SORT_GROUP = 32
"""Batches' worth of windows that are sorted by length together: little padding, yet a random order."""
SLACK = 15 / 16
"""How near the limit a document is brought that has too many windows for full batches."""
Curriculum = Literal["none", "context", "coherence"]
BLOCK = 8192
MIXING = "data.mixing"


class RowSource(Protocol):
    """Anything whose rows can be gathered: a store's `vectors`."""

    def gather(self, rows: IntArray) -> NDArray[np.float32]:
        """float32 [..., D] of rows [...]."""
        ...


def curriculum_epochs(epochs: int, share: float) -> int:
    """How many of a run's epochs the curriculum takes, at least 1: the epoch after them has everything."""
    return max(1, round(epochs * share))


def shape_at(shape: SequenceShape, epoch: int, epochs: int, share: float) -> SequenceShape:
    """How documents are cut in epoch number `epoch` of a curriculum over context: from 1 chunk (middle: 2)
    in equal steps to `shape`, never shorter than before."""
    least = 2 if shape.task == "middle" else 1
    done = min(epoch / curriculum_epochs(epochs, share), 1.0)
    context = least + int((shape.context - least) * done) // least * least
    return replace(shape, context=context, min_context=min(shape.min_context, context))


def share_at(epoch: int, epochs: int, share: float) -> float:
    """Which share of the windows epoch number `epoch` of a curriculum over coherence trains on: rising in
    equal steps to 1."""
    return min((epoch + 1) / (curriculum_epochs(epochs, share) + 1), 1.0)


class Coherence:
    """How alike the neighbouring chunks of each window are: the mean of their cosines.

    Reads every vector of the documents once.
    """

    def __init__(self, vectors: RowSource, documents: Windows) -> None:
        self._low = int(documents.first.min())
        size = int((documents.first + documents.count).max()) - self._low
        # sums[r] = sum of the cosines of the pairs (q, q + 1), q < r, that lie within a document
        cosines = np.zeros(size)
        for rows in _pairs(documents):
            a, b = vectors.gather(rows), vectors.gather(rows + 1)
            norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            cosines[rows - self._low] = np.einsum("nd,nd->n", a, b) / np.maximum(norms, 1e-12)
        self._sums = np.concatenate([[0.0], np.cumsum(cosines)])

    def of(self, windows: Windows, shape: SequenceShape) -> NDArray[np.float64]:
        """[N] mean cosine of neighbours among the chunks that each window reads and predicts (to the nearest
        horizon)."""
        first = windows.start - self._low
        pairs = windows.read + shape.horizon - 1
        found: NDArray[np.float64] = (self._sums[first + pairs] - self._sums[first]) / pairs
        return found

    def easiest(self, windows: Windows, shape: SequenceShape, share: float) -> IntArray:
        """Indices of the `share` of the windows (at least one) that are most coherent, in store order."""
        wanted = math.ceil(share * len(windows))
        order = np.argsort(-self.of(windows, shape), kind="stable")
        return np.sort(order[:wanted])


def _pairs(documents: Windows) -> list[IntArray]:
    """Rows of the first chunk of every pair of neighbours within a document, in blocks."""
    each = np.maximum(documents.count - 1, 0)
    within = np.arange(each.sum()) - np.repeat(np.cumsum(each) - each, each)
    rows = np.repeat(documents.first, each) + within
    return [rows[i : i + BLOCK] for i in range(0, len(rows), BLOCK)]


# Mixing of sources: how much of an epoch is of which, whatever their sizes.
#
# An epoch keeps its nominal number of targets. A source that is to have more of them than its documents hold
# is cut several times over, each time at other phases; one that is to have less gives a random part of its
# windows, another one each epoch.


@dataclass(frozen=True)
class MixtureComponent:
    """One source of a mixture.

    Attributes:
        targets: what its documents hold, of the nearest horizon.
        share: of the targets of an epoch, drawn from this source.
        passes: how often an epoch goes through its documents; below 1 it sees a part of them.
    """

    source: str
    targets: int
    share: float
    passes: float


@dataclass(frozen=True)
class Mixture:
    """The sources of a mixture and the documents of each, as indices into all documents."""

    parts: tuple[MixtureComponent, ...]
    members: tuple[IntArray, ...]

    @classmethod
    def of(
        cls, documents: Windows, shape: SequenceShape, mixing: Mapping[str, float], temperature: float = 1.0
    ) -> Mixture | None:
        """None where every source keeps the share it has.

        Args:
            mixing: source -> weight; empty weighs each source by its targets.
            temperature: weights are raised to 1 / temperature.
        Raises:
            ConfigError: `mixing` names a source there is none of, leaves one out, or wants targets of one
                that holds none.
        """
        if not mixing and temperature == 1.0:
            return None
        names, owner = np.unique(documents.sources, return_inverse=True)
        held = np.bincount(owner, documents.targets_each(shape), minlength=len(names))
        _check_names(names.tolist(), mixing)
        weights = np.array([mixing[name] for name in names.tolist()]) if mixing else held
        for name, weight, targets in zip(names.tolist(), weights, held, strict=True):
            if mixing and weight > 0 and targets == 0:
                remedy = "give it the weight 0"
                raise ConfigError(f"source '{name}' holds no target", where=MIXING, remedy=remedy)
        # Relative to the largest, so that no temperature overflows.
        powers = (weights / weights.max()) ** (1 / temperature)
        shares = powers / powers.sum()
        parts, members = [], []
        for i, name in enumerate(names.tolist()):
            if shares[i] > 0 and held[i] > 0:
                passes = float(shares[i] * held.sum() / held[i])
                parts.append(MixtureComponent(name, int(held[i]), float(shares[i]), passes))
                members.append(np.flatnonzero(owner == i))
        return cls(tuple(parts), tuple(members))

    def draw(self, documents: Windows, shape: SequenceShape, rng: np.random.Generator) -> Windows:
        """The windows of one epoch: each source's documents as many times as it has `passes`."""
        drawn = []
        for part, members in zip(self.parts, self.members, strict=True):
            own = documents.select(members)
            whole = int(part.passes)
            drawn += [own.cut(shape, rng) for _ in range(whole)]
            rest = part.passes - whole
            if rest > 0:
                again = own.cut(shape, rng)
                order = rng.permutation(len(again))
                before = np.cumsum(again.scored[order]) - again.scored[order]
                drawn.append(again.select(np.sort(order[before < rest * again.scored.sum() - 0.5])))
        return Windows.joined(drawn)


def _check_names(names: list[str], mixing: Mapping[str, float]) -> None:
    for name in mixing:
        if name not in names:
            message = f"no training document is of source '{name}'"
            raise ConfigError(message, where=MIXING, remedy=f"the sources are: {', '.join(names)}")
    for name in names:
        if mixing and name not in mixing:
            remedy = "give it a weight (0 leaves it out), or limit data.sources"
            raise ConfigError(f"source '{name}' is not named", where=MIXING, remedy=remedy)


@dataclass(frozen=True)
class Sampling:
    """How the batches of an epoch are drawn; as it stands, every target counts once and nothing is added.

    Attributes:
        max_per_document: windows of one document in a batch at most; 0 sets no limit.
        mixing: source -> its share of the targets of an epoch, as weights; empty leaves them as they are.
        mixing_temperature: shares are raised to 1 / temperature: 1 leaves them, above 1 evens them out.
        conditional: share of the windows that are given a query (`nextvec.data.batches.query_rows`).
        broken: share of the windows whose targets are replaced from a random position on
            (`nextvec.data.negatives.Breaks`).
        drawn: each target is given another one of its document (`nextvec.data.negatives.other_targets`).
        curriculum: "none", "context" or "coherence" (`nextvec.data.sampling`).
        curriculum_share: share of the epochs the curriculum takes.
        epochs: of the run; what the curriculum is laid out over.
    """

    max_per_document: int = 0
    mixing: Mapping[str, float] = field(default_factory=dict)
    mixing_temperature: float = 1.0
    conditional: float = 0.0
    broken: float = 0.0
    drawn: bool = False
    curriculum: Curriculum = "none"
    curriculum_share: float = 0.5
    epochs: int = 1


@dataclass(frozen=True)
class EpochPlan:
    """The windows of an epoch, cut by `shape`, and its batches: indices into them."""

    shape: SequenceShape
    windows: Windows
    batches: list[IntArray]


def batch_windows(
    windows: Windows,
    batch_size: int,
    stride: int,
    rng: np.random.Generator | None = None,
    max_per_document: int = 0,
) -> list[IntArray]:
    """Group windows into batches of about batch_size x stride targets: indices into `windows`.

    A batch of full windows holds `batch_size` of them; a batch of shorter ones holds more, so that every
    target weighs nearly the same. Similar lengths stand together. With `rng` the order is random, without it
    fixed. With `max_per_document` no batch has more windows of one document: where chance does not see to
    it, documents are spread evenly, and batches become smaller where that is not enough.
    """
    budget = batch_size * stride
    order = np.arange(len(windows)) if rng is None else rng.permutation(len(windows))
    ordered, bins = pack(windows, order, budget, batch_size)
    if max_per_document and crowded(windows.document[ordered], bins, max_per_document).any():
        batches = diverse(windows, order, budget, batch_size, max_per_document)
    else:
        batches = np.split(ordered, np.flatnonzero(np.diff(bins)) + 1)
    if rng is not None:
        batches = [batches[i] for i in rng.permutation(len(batches))]
    return batches


def pack(windows: Windows, order: IntArray, budget: float, batch_size: int) -> tuple[IntArray, NDArray[Any]]:
    """`order` with similar lengths together, and for each of it the number of its batch, ascending."""
    group = batch_size * SORT_GROUP
    groups = [order[i : i + group] for i in range(0, len(order), group)]
    # Long to short, then short to long: a batch across two groups would else pad a hundred short ones to a
    # long.
    signs = [1 - 2 * (i % 2) for i in range(len(groups))]
    signed = zip(signs, groups, strict=True)
    ordered = np.concatenate([g[np.argsort(-sign * windows.read[g], kind="stable")] for sign, g in signed])
    scored = windows.scored[ordered]
    # A window joins the batch in which its first target falls.
    return ordered, (np.cumsum(scored) - scored) // budget


def diverse(windows: Windows, order: IntArray, budget: int, batch_size: int, limit: int) -> list[IntArray]:
    """Batches of what `order` lists, none with more than `limit` windows of one document.

    Each document is spread evenly over the epoch. One that makes up too much of it for batches of `budget`
    targets makes all of them smaller, rather than some of them all its own, and so that it comes a little
    below the limit on average, as spreading is not exact. What still comes too close together, a few per
    cent, is packed again, into batches of the rest.
    """
    batches: list[IntArray] = []
    while len(order):
        document = windows.document[order]
        # Targets that come with one window of the document that has most of them
        beside = windows.scored[order].sum() / np.bincount(document).max()
        room = budget if limit * beside >= budget else max(SLACK * limit * beside, 1)
        ordered, bins = pack(windows, order[spread(document)], room, batch_size)
        late = crowded(windows.document[ordered], bins, limit)
        kept = bins[~late]
        batches += np.split(ordered[~late], np.flatnonzero(np.diff(kept)) + 1)
        order = ordered[late]
    return batches


def crowded(document: IntArray, bins: NDArray[Any], limit: int) -> NDArray[np.bool_]:
    """[N] True for each window before which its batch already holds `limit` of its document."""
    crowd = np.zeros(len(document), dtype=bool)
    # Documents of a batch side by side: a group of equal keys.
    keys = bins.astype(np.int64) * (int(document.max()) + 1) + document
    keyed = np.sort(keys)
    if (keyed[limit:] == keyed[:-limit]).any():
        by = np.argsort(keys, kind="stable")
        crowd[by[limit:]] = keyed[limit:] == keyed[:-limit]
    return crowd


def spread(document: IntArray) -> IntArray:
    """An order in which the windows of each document stand at even distances; `document` [N] is whose they
    are. A document's own keep their order among themselves."""
    by = np.argsort(document, kind="stable")
    _, starts, counts = np.unique(document[by], return_index=True, return_counts=True)
    nth = np.arange(len(by)) - np.repeat(starts, counts)
    # Multiples of the golden ratio: documents of equal length do not all come at the same places.
    phase = np.arange(len(starts)) * 0.6180339887498949 % 1
    place = np.empty(len(by))
    place[by] = (nth + np.repeat(phase, counts)) / np.repeat(counts, counts)
    return np.argsort(place, kind="stable")


def epoch_rng(seed: int, epoch: int) -> np.random.Generator:
    """The random stream of one epoch: depends on nothing else, so an epoch can be planned anew on resume."""
    return np.random.default_rng([seed, epoch])
