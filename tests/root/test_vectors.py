"""Raw and unit vectors cannot be taken for each other."""

from __future__ import annotations

import numpy as np
import pytest

from nextvec.errors import EncoderMismatchError, VectorError
from nextvec.vectors import RawVectors, UnitVectors, require_raw, require_unit


def some(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_unit_vectors_of_raw_ones() -> None:
    values = some(3, 4, 8)
    values[1, 2] = 0.0
    units = RawVectors(values, "e").unit()
    norms = np.linalg.norm(units.values, axis=-1)
    assert norms[1, 2] == 0.0
    assert np.delete(norms.ravel(), 6) == pytest.approx(1.0, abs=1e-6)
    assert (units.encoder, units.dimension, units.values.dtype) == ("e", 8, np.float32)


def test_they_are_frozen_and_do_not_share_what_can_be_written() -> None:
    values = some(2, 3)
    raw = RawVectors(values, "e")
    values[:] = 7.0
    assert not (raw.values == 7.0).any()
    with pytest.raises(ValueError, match="read-only"):
        raw.values[0, 0] = 1.0
    with pytest.raises(AttributeError):
        raw.encoder = "other"  # type: ignore[misc]
    assert RawVectors(raw.values, "e").values is raw.values  # no copy of what nobody can write


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.float32(1.0), "are not vectors"),
        (np.zeros((2, 3), np.int64), "are not vectors"),
        (np.array(["a"]), "are not vectors"),
        (np.array([[1.0, 2.0], [np.nan, 0.0]]), r"vector \[1\] holds NaN"),
        (np.array([1.0, np.inf]), "the vector holds NaN"),
        (np.array([[1e300, 0.0]]), r"vector \[0\] holds NaN or infinity"),
    ],
)
def test_what_are_no_vectors(values: np.ndarray, says: str) -> None:
    for kind in (RawVectors, UnitVectors):
        with pytest.raises(VectorError, match=says):
            kind(values, "e")


def test_unit_vectors_are_checked() -> None:
    good = RawVectors(some(2, 5, 8), "e").unit().values
    assert UnitVectors(good * np.float32(1.0005), "e").dimension == 8
    long = good.copy()
    long[1, 3] *= 1.5
    with pytest.raises(VectorError, match=r"vector \[1, 3\] has length 1\.5, not 1; .*\.unit\(\)"):
        UnitVectors(long, "e")


def test_each_is_only_taken_where_it_belongs() -> None:
    raw = RawVectors(some(2, 8), "e")
    units = raw.unit()
    assert require_raw(raw) is raw
    assert require_unit(units) is units
    with pytest.raises(
        VectorError, match=r"raw vectors are needed, not UnitVectors of shape \[2, 8\]; .*before"
    ):
        require_raw(units)
    with pytest.raises(VectorError, match=r"unit vectors are needed, not RawVectors .*take \.unit\(\)"):
        require_unit(raw)
    with pytest.raises(VectorError, match=r"not ndarray of shape \[2, 8\]; wrap"):
        require_raw(raw.values)
    with pytest.raises(VectorError, match=r"not list; wrap them: .*\.unit\(\)"):
        require_unit([1.0])


def test_vectors_of_another_encoder_are_refused() -> None:
    raw = RawVectors(some(2, 8), "one")
    assert raw.of("one") is raw
    with pytest.raises(EncoderMismatchError, match="of the encoder one where those of other are needed"):
        raw.of("other")


def test_vectors_at_unit_length_are_not_taken_for_raw_ones() -> None:
    values = RawVectors(some(2, 4), "e").unit().values
    stored = RawVectors(values, "e", normalised=True)
    assert stored.of("e").of("e", normalised=True) is stored
    with pytest.raises(EncoderMismatchError, match="vectors at unit length of the encoder e where its raw"):
        stored.of("e", normalised=False)
    with pytest.raises(EncoderMismatchError, match="raw vectors of the encoder e where its vectors at unit"):
        RawVectors(values, "e").of("e", normalised=True)
