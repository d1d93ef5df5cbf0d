"""What the model uses of its context: change it, ask again, and see what that costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from nextvec.data.windows import FloatArray, IntArray
from nextvec.diagnostics.sections import Change, DiagnosisContext, Section, Verdict, sample, score
from nextvec.evaluation.intervals import Estimate, Values, estimate
from nextvec.evaluation.predictor_protocol import row_dots
from nextvec.text import table

SHUFFLE, BEFORE_LAST = "shuffled", "shuffled before the last"
REVERSE, REPLACE = "reversed", "another document's"
WINDOWS = 1000
EVERY_AGE = 8


@dataclass(frozen=True)
class Ablation:
    """One change of the context.

    Attributes:
        windows: on how many it was tried.
        cost: cosine lost by the model; baseline_cost: by the best baseline.
    """

    name: str
    windows: int
    cost: Estimate
    baseline_cost: Estimate

    @property
    def both(self) -> tuple[Estimate, Estimate]:
        return self.cost, self.baseline_cost


@dataclass(frozen=True)
class AblationsSection(Section):
    """Cost of changed contexts.

    Attributes:
        dropped: age (0 is the last chunk read) -> cost of leaving that chunk out.
        kept: k -> cost of reading the last k chunks only.
    """

    title: ClassVar[str] = "What is used of the context"
    model: str
    baseline: str
    context: int
    whole: tuple[Ablation, ...]
    dropped: dict[int, Ablation]
    kept: dict[int, Ablation]

    def find(self, name: str) -> Ablation | None:
        """One of the changes of the whole context; None where it could not be tried."""
        return next((a for a in self.whole if a.name == name), None)

    @property
    def enough(self) -> int | None:
        """The fewest last chunks whose reading costs nothing clear; None when it takes all of them."""
        return next((k for k, a in sorted(self.kept.items()) if not a.cost.clear or a.cost.value < 0), None)

    def verdicts(self) -> list[Verdict]:
        found = []
        shuffled, earlier = self.find(SHUFFLE), self.find(BEFORE_LAST)
        if shuffled is not None:
            cost = shuffled.cost
            if not cost.clear:
                verb = "does not use" if cost.negligible else "cannot be shown to use"
                text = f"{verb} the order of its context: shuffling costs {cost}"
            elif cost.value < 0:
                text = f"loses by the order of its context: shuffling costs {cost}"
            else:
                text = f"uses the order of its context: shuffling costs {cost}"
                if earlier is not None and not earlier.cost.clear:
                    text += f", though only which chunk came last (shuffling the others: {earlier.cost})"
            found.append(Verdict("order", "ok" if cost.above else "note", text))
        replaced = self.find(REPLACE)
        if replaced is not None:
            uses = replaced.cost.above
            nothing = replaced.cost.negligible or replaced.cost.value < 0
            verb = "depends on" if uses else "ignores" if nothing else "cannot be shown to depend on"
            text = f"{verb} what was read: another document's context costs {replaced.cost}"
            found.append(Verdict("context", "ok" if uses else "red" if nothing else "warning", text))
        if self.kept:
            text = f"needs all {self.context} chunks of its context"
            if self.enough is not None:
                cost = self.kept[self.enough].cost
                text = f"the last {self.enough} of {self.context} chunks are enough: the rest is worth {cost}"
            found.append(Verdict("context length", "note", text))
        return found

    def lines(self) -> list[str]:
        changes = [*self.whole, *self.dropped.values(), *self.kept.values()]
        if not changes:
            return [f"{self.model} reads one chunk only, of one document: there is nothing to change."]
        header = ["context", "windows", f"{self.model} loses", f"{self.baseline} loses"]
        return table(header, [[a.name, f"{a.windows:,}", *(e.show(4) for e in a.both)] for a in changes])


def ablate(context: DiagnosisContext, *, windows: int = WINDOWS, seed: int = 0) -> AblationsSection:
    """Try every change on at most `windows` windows, on the model and on the best baseline.

    Changes are made to all that the predictor is given: the last `context` chunks read.
    """
    trial = _Trial(context, sample(len(context.evaluation_set), windows, seed), seed)
    read = int(trial.windows.read.max())
    width = min(context.model.context, read)
    whole = [trial.run(name, change) for name, change in trial.orders()] if width > 1 else []
    ages = [age for age in range(width) if age < EVERY_AGE or (age & (age + 1)) == 0]
    dropped = {age: cost for age in ages if (cost := trial.drop(age)) is not None}
    replaced = trial.replace()
    return AblationsSection(
        model=context.model.name,
        baseline=context.best,
        context=width,
        whole=(*whole, *([] if replaced is None else [replaced])),
        dropped=dropped,
        kept={k: trial.keep(k) for k in _lengths(width)},
    )


class _Trial:
    """The chosen windows, and what both predictors score on them with their contexts as they are."""

    def __init__(self, context: DiagnosisContext, which: IntArray, seed: int) -> None:
        self.context, self.which = context, which
        self.vectors = context.evaluation_set.vectors
        self.windows = context.evaluation_set.windows.select(which)
        self.pair = (context.model, context.baselines[context.best])
        self.before = [context.cosine[which], context.best_cosine[which]]
        self.rng = np.random.default_rng(seed)

    def orders(self) -> Iterator[tuple[str, Change]]:
        """The changes of order."""
        most = max(min(p.context, int(self.windows.read.max())) for p in self.pair)
        random = self.rng.random((len(self.windows), most))

        def by(keys: Callable[[IntArray, IntArray, int], NDArray[np.float64]]) -> Change:
            """Contexts of T by keys [B, T] that are made of (windows, lengths, T)."""
            return lambda x, n, piece: (_reorder(x, n, keys(piece, n, x.shape[1])), n)

        def before_last(piece: IntArray, lengths: IntArray, width: int) -> NDArray[np.float64]:
            here = random[piece, :width].copy()
            here[np.arange(len(lengths)), lengths - 1] = 1.0
            return here

        yield SHUFFLE, by(lambda piece, n, width: random[piece, :width])
        yield BEFORE_LAST, by(before_last)
        yield REVERSE, by(lambda piece, n, width: np.tile(-np.arange(float(width)), (len(n), 1)))

    def run(self, name: str, change: Change) -> Ablation:
        """Cost of a change that every window allows."""
        return self._cost(name, [score(p, self.vectors, self.windows, change=change)[0] for p in self.pair])

    def drop(self, age: int) -> Ablation | None:
        """Cost of leaving one chunk out of the document, in windows with others; None where there is none."""
        has = self.windows.read > max(age, 1)
        if not has.any():
            return None
        windows = self.windows.select(has)
        after = [
            score(p, self.vectors, windows, width=p.context + 1, change=_without(age, p.context))[0]
            for p in self.pair
        ]
        return self._cost(f"without chunk -{age + 1}", after, has)

    def keep(self, count: int) -> Ablation:
        after = [score(p, self.vectors, self.windows, width=min(count, p.context))[0] for p in self.pair]
        return self._cost(f"only the last {count}", after)

    def replace(self) -> Ablation | None:
        """Cost of reading another document instead; None where there is only one."""
        donor = _of_other_documents(self.windows.document, self.rng)
        if donor is None:
            return None
        targets = self.context.evaluation_set.target_units[self.which]
        scored = (self.context.scores, self.context.best_scores)
        return self._cost(REPLACE, [row_dots(j.unit[self.which[donor]], targets) for j in scored])

    def _cost(self, name: str, after: list[Values], which: NDArray[np.bool_] | None = None) -> Ablation:
        mask = np.ones(len(self.windows), dtype=np.bool_) if which is None else which
        documents = self.windows.document[mask]
        model, baseline = (estimate(documents, b[mask], a) for b, a in zip(self.before, after, strict=True))
        return Ablation(name, len(documents), model, baseline)


def _reorder(contexts: FloatArray, lengths: IntArray, keys: NDArray[np.float64]) -> FloatArray:
    """The real vectors of contexts [B, T, D] by ascending keys [B, T]; padding stays at the end."""
    real = np.arange(contexts.shape[1]) < lengths[:, None]
    order = np.argsort(np.where(real, keys, np.inf), axis=1, kind="stable")
    return np.take_along_axis(contexts, order[:, :, None], axis=1)


def _without(age: int, context: int) -> Change:
    """Leave out the chunk of this age, then keep the last `context` of the rest."""

    def change(contexts: FloatArray, lengths: IntArray, piece: IntArray) -> tuple[FloatArray, IntArray]:
        ages = lengths[:, None] - 1 - np.arange(contexts.shape[1])
        kept = (ages >= 0) & (ages != age) & (ages < np.where(age < context, context + 1, context))
        order = np.argsort(~kept, axis=1, kind="stable")
        moved = np.take_along_axis(contexts, order[:, :, None], axis=1)
        shorter = kept.sum(axis=1)
        moved[np.arange(contexts.shape[1]) >= shorter[:, None]] = 0.0
        return moved, shorter

    return change


def _of_other_documents(documents: IntArray, rng: np.random.Generator) -> IntArray | None:
    """[N] a random window of another document for each, every window used once; None if there is none.

    Windows are laid out document by document in a circle and each takes the one that stands at least the
    longest document farther on; where one document holds more than half of the windows, others are drawn.
    """
    names, which, counts = np.unique(documents, return_inverse=True, return_counts=True)
    if len(names) < 2:
        return None
    order = np.lexsort((rng.random(len(documents)), rng.permutation(len(names))[which]))
    donor = np.empty(len(documents), dtype=np.int64)
    donor[order] = np.roll(order, -int(counts.max()))
    same = np.flatnonzero(documents[donor] == documents)
    for i in same:
        donor[i] = rng.choice(np.flatnonzero(documents != documents[i]))
    return donor


def _lengths(context: int) -> list[int]:
    """1, 2, 3, 5 and on in steps of about 1.6, below `context`."""
    found, step = [1], 2
    while step < context:
        found.append(step)
        step += found[-2]
    return [k for k in found if k < context]
