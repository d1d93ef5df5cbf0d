"""Ways of finding what comes next: a query vector made of what was read, then re-rankers of what it finds.

A strategy is written as the name of its query, `predicted`, with re-rankers behind it if any,
`predicted+document+mmr`. The names are those of `queries.py` and `rerankers.py`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

from nextvec.errors import RetrievalError
from nextvec.retrieval import queries, rerankers
from nextvec.retrieval.index import Found
from nextvec.retrieval.readings import Reading
from nextvec.retrieval.registry import QUERIES, RERANKERS, Need, Query, Registered, Reranker, RetrievalContext
from nextvec.vectors import UnitVectors

REGISTERED = (queries, rerankers)
"""The modules whose queries and re-rankers are known because they are imported here."""
REMEDIES: dict[Need, str] = {
    "decoder": "give a decoder, and an encoder of its texts",
    "query": "give a query to steer towards",
    "conditional": "take a run trained with data.conditional above 0",
}
COMPARED = ("last", "last-mean", "predicted", "blend")
"""Queries that `usual` puts every re-ranker behind."""


@dataclass(frozen=True)
class Strategy:
    """A query and the re-rankers behind it. Use `Strategy.named`."""

    name: str
    query: Registered[Query]
    rerankers: tuple[Registered[Reranker], ...] = ()

    @classmethod
    def named(cls, name: str) -> Self:
        """The strategy of that name. Raises RetrievalError for an unknown one."""
        first, *others = name.split("+")
        _check_known("query", first, QUERIES, name)
        for other in others:
            _check_known("re-ranker", other, RERANKERS, name)
        return cls(name, QUERIES[first], tuple(RERANKERS[other] for other in others))

    @property
    def needs(self) -> frozenset[Need]:
        """What it cannot do without."""
        return self.query.needs.union(*(reranker.needs for reranker in self.rerankers))

    @property
    def base(self) -> str:
        """The name of its query."""
        return self.name.partition("+")[0]

    @property
    def control(self) -> str | None:
        """The name of the strategy that does as much without the model; None for one that asks no model."""
        parts = self.name.split("+")
        controls = [QUERIES[parts[0]].control, *(RERANKERS[part].control for part in parts[1:])]
        without = "+".join(control or part for control, part in zip(controls, parts, strict=True))
        return None if without == self.name else without

    def units(self, context: RetrievalContext, reading: Reading) -> UnitVectors:
        """The query vectors [B, D]. Raises RetrievalError: something that it needs is not there."""
        for need in sorted(self.needs - context.has(reading.queries is not None)):
            raise RetrievalError(
                f"there is no {need}" if need != "conditional" else "the run was trained without queries",
                where=f"strategy '{self.name}'",
                remedy=REMEDIES[need],
            )
        return UnitVectors(self.query.function(context, reading), context.index.encoder)

    def rerank(self, context: RetrievalContext, reading: Reading, found: Found) -> Found:
        """The candidates in the order of the re-rankers, one after another."""
        for reranker in self.rerankers:
            found = reranker.function(context, reading, found)
        return found

    def candidates(self, context: RetrievalContext, reading: Reading, units: UnitVectors, k: int) -> Found:
        """What the query vectors find: k rows; for re-rankers `Options.pool`, if each text has so many."""
        if self.rerankers:
            free = context.index.size - max(len(rows) for rows in reading.read)
            k = max(k, min(context.options.pool, free))
        return context.index.search(units, k, reading.read)

    def find(self, context: RetrievalContext, reading: Reading, k: int) -> Found:
        """The k best rows for each text, none of them read. Raises RetrievalError."""
        units = self.units(context, reading)
        found = self.candidates(context, reading, units, k)
        return self.rerank(context, reading, found).first(k)


def _check_known(what: str, part: str, known: Collection[str], strategy: str) -> None:
    if part not in known:
        raise RetrievalError(
            f"no {what} '{part}'", where=f"strategy '{strategy}'", remedy=f"choose one of: {', '.join(known)}"
        )


def usual(context: RetrievalContext, *, told: bool) -> tuple[str, ...]:
    """Every query that can be asked with what is there, and every re-ranker behind some of them.

    Args:
        told: there are queries to steer towards.
    """
    there = context.has(told)
    plain = [name for name, query in QUERIES.items() if query.needs <= there]
    able = [name for name, reranker in RERANKERS.items() if reranker.needs <= there]
    return (*plain, *(f"{base}+{name}" for name in able for base in COMPARED))


def summaries() -> dict[str, str]:
    """Name -> what it does, queries first, then re-rankers with a + before their name."""
    behind = {f"+{name}": reranker.summary for name, reranker in RERANKERS.items()}
    return {name: query.summary for name, query in QUERIES.items()} | behind
