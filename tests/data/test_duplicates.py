from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.data.splits import NearDuplicates


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 14), st.sampled_from([0.05, 0.3, 0.5, 0.8, 0.95, 1.0]))
def test_banding_finds_exactly_what_comparing_all_pairs_finds(seed: int, n: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    # A few originals, each repeated with a random share of its hashes replaced.
    originals = rng.integers(0, 2**32, size=(3, 64), dtype=np.uint32)
    rows = originals[rng.integers(0, 3, size=n)].copy()
    changed = rng.random((n, 64)) < rng.choice([0.0, 0.05, 0.2, 0.5], size=(n, 1))
    rows[changed] = rng.integers(0, 2**32, size=int(changed.sum()), dtype=np.uint32)

    found = NearDuplicates(rows, threshold)
    documents_of: dict[int, set[int]] = {}
    for i, number in enumerate(found.signature_of):
        documents_of.setdefault(number, set()).add(i)
    for i in range(n):
        expected = {j for j in range(n) if np.mean(rows[i] == rows[j]) >= threshold}
        assert {j for s in found.signatures_like(i) for j in documents_of[s]} == expected


def test_a_thousand_equal_documents_are_one_signature() -> None:
    found = NearDuplicates(np.zeros((1000, 64), dtype=np.uint32), 0.8)
    assert set(found.signature_of) == {0}
    assert found.signatures_like(999) == [0]
