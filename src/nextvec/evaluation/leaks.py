"""The leak guard: what stands in training is not evaluated on, and much of it is refused outright."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nextvec.data.trained import TrainedOn, chunk_keys, key, known
from nextvec.data.windows import Windows
from nextvec.errors import LeakError

if TYPE_CHECKING:
    from nextvec.corpus.store import Store

LIMIT = 0.01


@dataclass(frozen=True)
class Leaks:
    """How many windows were dropped, by the first reason that applies."""

    windows: int
    same_document_id: int
    same_document_text: int
    same_target_text: int

    @property
    def dropped(self) -> int:
        return self.same_document_id + self.same_document_text + self.same_target_text


def without_leaks(
    store: Store, windows: Windows, trained: TrainedOn, *, split: str, limit: float = LIMIT
) -> tuple[Windows, Leaks]:
    """The windows whose document and target text do not stand in training, and the count of the others.

    Raises:
        LeakError: more than `limit` of the windows leak.
    """
    documents, which = np.unique(windows.document, return_inverse=True)
    held = [store.documents[i] for i in documents]
    by_id = known(trained.ids, (key(d.original) for d in held))[which]
    by_text = known(trained.documents, (key(d.sha256) for d in held))[which] & ~by_id
    by_target = known(trained.chunks, chunk_keys(store, windows.target)) & ~by_id & ~by_text
    leaks = Leaks(len(windows), int(by_id.sum()), int(by_text.sum()), int(by_target.sum()))
    if leaks.dropped > limit * leaks.windows:
        raise LeakError(
            f"{leaks.dropped} of {leaks.windows} windows stand in training "
            f"({leaks.same_document_id} by document id, {leaks.same_document_text} by document text, "
            f"{leaks.same_target_text} by target text), more than {100 * limit:g} %",
            where=f"split {split} of {store.path}",
            remedy="evaluate documents that were not trained on, or keep near-duplicates in one split",
        )
    return windows.select(~(by_id | by_text | by_target)), leaks
