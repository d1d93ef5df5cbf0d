from __future__ import annotations

import math

import pytest

from nextvec.selfcheck.predictors import EXACT, at_most, between, chance, exact, near


def test_tolerances() -> None:
    assert exact(1.0).tolerance(error=9.0, D=64) == EXACT
    assert near(0.5).tolerance(error=0.01, D=64) == pytest.approx(0.03 + 2 / 64)
    assert near(0.5, scale=10).tolerance(error=0.01, D=64) == pytest.approx(0.03 + 20 / 64)
    assert chance(0.1).tolerance(error=0.0, D=100) == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("expected", "inside", "outside"),
    [
        (near(0.5), (0.41, 0.59), (0.39, 0.61)),
        (at_most(0.5), (-9.0, 0.59), (0.61,)),
        (between(0.2, 0.5), (0.11, 0.59), (0.09, 0.61)),
    ],
)
def test_what_holds(expected, inside, outside) -> None:
    assert all(expected.holds(value, 0.1) for value in inside)
    assert not any(expected.holds(value, 0.1) for value in (*outside, math.nan))


def test_in_words() -> None:
    words = [str(e) for e in (exact(1), near(-1e-12), at_most(0.25), between(0, 1), chance(0.001269))]
    assert words == ["= 1", "~ 0", "<= 0.25", "0 .. 1", "chance 0.001269"]
