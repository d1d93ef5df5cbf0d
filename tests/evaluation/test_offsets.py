from __future__ import annotations

import numpy as np
import pytest

from nextvec.evaluation.predictor_protocol import unit
from nextvec.evaluation.trajectory import OFFSETS, offset_cosines, offset_profile


@pytest.mark.parametrize("kind", ["split", "store", "document"])
@pytest.mark.parametrize("horizon", [1, 2])
def test_cosines_are_those_of_a_plain_loop_within_each_document(worlds, kind: str, horizon: int) -> None:
    rng = np.random.default_rng(0)
    counts = [5, 9, 4, 12]
    vectors = rng.standard_normal((30, 6)).astype(np.float32)
    evaluation_set = worlds.evaluation_set(
        vectors, counts, context=2, horizon=horizon, kind=kind, evaluated=[0, 1, 3]
    )
    units = unit(rng.standard_normal((len(evaluation_set), 6)))
    found = offset_cosines(units, evaluation_set)
    starts = np.cumsum([0, *counts])
    for i, (target, document) in enumerate(
        zip(evaluation_set.windows.target, evaluation_set.windows.document, strict=True)
    ):
        for k in OFFSETS:
            if starts[document] <= target + k < starts[document + 1]:
                chunk = vectors[target + k]
                assert found[k][i] == pytest.approx(units[i] @ chunk / np.linalg.norm(chunk), abs=1e-6)
            else:
                assert np.isnan(found[k][i])


def test_the_profile_of_the_oracle_has_its_peak_at_the_target_and_that_of_a_copy_one_before(worlds) -> None:
    vectors, _ = worlds.rotation(np.random.default_rng(0), 8, 12, 30)
    evaluation_set = worlds.evaluation_set(vectors)
    profile = offset_profile(offset_cosines(evaluation_set.target_units, evaluation_set))
    assert profile[0] == pytest.approx(1)
    # the world's cosines depend on the distance only
    assert profile[-2] == pytest.approx(profile[2])
    assert profile[-3] == pytest.approx(profile[3])
    copy = offset_profile(offset_cosines(evaluation_set.last_units, evaluation_set))
    assert max(copy, key=copy.__getitem__) == -1
    assert copy[0] == pytest.approx(profile[-1])


def test_an_offset_that_no_window_has_is_left_out(worlds) -> None:
    evaluation_set = worlds.evaluation_set(
        np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32), context=3
    )
    assert list(offset_profile(offset_cosines(evaluation_set.target_units, evaluation_set))) == [
        -3,
        -2,
        -1,
        0,
    ]
