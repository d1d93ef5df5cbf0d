"""Best and worst predictions with their texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nextvec.corpus.store import Store
from nextvec.data.windows import make_windows
from nextvec.diagnostics.examples import ScoredWindow, best_and_worst
from nextvec.evaluation.predictor_protocol import unit

DOCUMENTS = (1, 4, 6, 9)


@dataclass
class Turned:
    """Knows the next vector of `good` documents and answers its opposite for the others."""

    answers: dict[bytes, np.ndarray]
    name: str = "turned"
    kind: str = "model"
    context: int = 1
    metadata: dict[str, Any] = field(default_factory=dict)

    def predict(self, contexts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raw = np.stack([self.answers[c[0].tobytes()] for c in contexts])
        return raw, unit(raw)


@pytest.fixture(scope="module")
def store(make_world: Callable[..., Store], tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_world(tmp_path_factory.mktemp("examples") / "store", documents=12)


@pytest.fixture(scope="module")
def found(store: Store) -> list[tuple[str, list[ScoredWindow]]]:
    vectors = store.vectors[:]
    answers = {
        vectors[i].tobytes(): vectors[i + 1] * (1 if i // 12 in (1, 4) else -1)
        for i in range(len(vectors) - 1)
    }
    windows = make_windows(store, DOCUMENTS, context=5)
    return best_and_worst(store, Turned(answers), windows, DOCUMENTS, 2)


def test_best_and_worst_of_different_documents(found) -> None:
    (best_title, best), (worst_title, worst) = found
    assert (best_title, worst_title) == ("Best", "Worst")
    assert {e.title for e in best} == {"Title 1", "Title 4"}
    assert {e.title for e in worst} == {"Title 6", "Title 9"}
    assert all(e.cosine == pytest.approx(1) and e.rank == 1 for e in best)
    assert all(e.cosine == pytest.approx(-1) and e.rank > 1 for e in worst)


def test_texts_belong_to_the_window(store: Store, found) -> None:
    for _, examples in found:
        for example in examples:
            document = next(d for d in store.documents if d.title == example.title)
            row = document.first + example.position
            assert 5 <= example.position < 12
            assert example.target == store.texts([row])[0]
            assert example.last == store.texts([row - 1])[0]


def test_the_nearest_is_the_target_where_it_ranks_first_and_never_what_was_read(store: Store, found) -> None:
    (_, best), (_, worst) = found
    assert all(e.nearest == e.target for e in best)
    for example in worst:
        document = next(d for d in store.documents if d.title == example.title)
        read = store.texts(range(document.first, document.first + example.position))
        assert example.nearest not in [*read, example.target]
        candidates = [t for i in DOCUMENTS for t in store.texts(range(12 * i, 12 * i + 12))]
        assert example.nearest in candidates


def test_no_more_examples_than_documents(store: Store, trained: Path) -> None:
    from nextvec.inference.predictor import RunPredictor

    windows = make_windows(store, [0, 1], context=5)
    for _, examples in best_and_worst(store, RunPredictor(trained), windows, [0, 1], 3):
        assert len(examples) == 2
        assert len({e.title for e in examples}) == 2
