"""Views: a document cut again with its chunk boundaries moved, to train on.

A view is a document of its own in the store, with its own chunks and vectors, of the same text as its
original. It is known by `Document.view_of`, which names the original, and by nothing else: the id `ID~1/4`
(the original ID with its boundaries moved by a quarter of a chunk) is only a name. Whatever divides, counts
or evaluates documents asks `Document.view_of` or `originals`, for which a document and its views are one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nextvec.corpus.chunking import Chunk, Chunker
from nextvec.errors import ConfigError

MAX_PHASES = 16


class Viewed(Protocol):
    """As much of a store's `Document` as tells views."""

    @property
    def doc_id(self) -> str: ...

    @property
    def view_of(self) -> str | None: ...


def originals(documents: Sequence[Viewed]) -> NDArray[np.int64]:
    """[n] index of each document's original, which for an original is its own."""
    whose = np.arange(len(documents), dtype=np.int64)
    views = [i for i, document in enumerate(documents) if document.view_of is not None]
    if views:
        index = {d.doc_id: i for i, d in enumerate(documents) if d.view_of is None}
        whose[views] = [index[str(documents[i].view_of)] for i in views]
    return whose


def view_id(doc_id: str, phase: Fraction) -> str:
    """The id of a view. In lowest terms, so that 2/4 of a chunk is the view that 1/2 is."""
    return f"{doc_id}~{phase.numerator}/{phase.denominator}"


def shifts(chunker: Chunker, phases: int) -> tuple[Fraction, ...]:
    """The phases k / `phases` of the views, k = 1 .. phases - 1.

    Raises:
        ConfigError: less than 1 or more than 16 phases, or a chunker whose boundaries cannot be shifted.
    """
    if not 1 <= phases <= MAX_PHASES:
        raise ConfigError(f"{phases} phases", where="phases", remedy=f"give 1 to {MAX_PHASES}")
    found = tuple(Fraction(k, phases) for k in range(1, phases))
    for phase in found[:1]:
        chunker.chunk("", phase)  # asks the chunker whether it can
    return found


def new_views(
    chunker: Chunker,
    text: str,
    unshifted: Sequence[Chunk],
    wanted: Sequence[Fraction],
    stored: Callable[[Fraction], bool],
) -> tuple[list[tuple[Fraction, list[Chunk]]], int]:
    """The views of a document that are to be added, and how many are left out because they are cut like the
    original or like another view.

    Args:
        unshifted: the chunks of the original.
        stored: whether the store has the view of this phase already.
    """
    cuts = {phase: chunker.chunk(text, phase) for phase in wanted}
    seen = {_boundaries(unshifted)} | {_boundaries(cuts[phase]) for phase in wanted if stored(phase)}
    found, alike = [], 0
    for phase in (phase for phase in wanted if not stored(phase)):
        boundaries = _boundaries(cuts[phase])
        if boundaries in seen:
            alike += 1
        else:
            seen.add(boundaries)
            found.append((phase, cuts[phase]))
    return found, alike


def _boundaries(chunks: Sequence[Chunk]) -> tuple[tuple[int, int], ...]:
    return tuple((c.start, c.end) for c in chunks)
