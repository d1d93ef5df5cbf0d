"""Vectors in bodies."""

from __future__ import annotations

import io
from base64 import b64encode
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nextvec.serving.bodies import embeddings, npy_bytes, read_json, read_npy, vector_of, windows_of
from nextvec.serving.errors import Refusal
from nextvec.serving.settings import Settings

SETTINGS = Settings(max_vectors=6, max_windows=4)


def npy(values: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, allow_pickle=False)
    return stream.getvalue()


def refused(values: Any, dimension: int = 3) -> tuple[int, str]:
    with pytest.raises(Refusal) as found:
        windows_of(values, dimension, SETTINGS)
    return found.value.status, found.value.code


arrays = hnp.arrays(
    st.sampled_from(["<f2", "<f4", ">f4", "<f8"]),
    st.tuples(st.integers(1, 4), st.integers(1, 6), st.just(3)),
    elements=st.floats(-1000, 1000, width=16),
)


@given(arrays, st.booleans())
def test_npy_of_every_float_type_and_order_is_read(values: Any, fortran: bool) -> None:
    sent = np.asfortranarray(values) if fortran else values
    found = windows_of(read_npy(npy(sent)), 3, SETTINGS)
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values.astype(np.float32))


@given(arrays)
def test_lists_and_base64_say_the_same_as_npy(values: Any) -> None:
    values = values.astype(np.float32)
    texts = [b64encode(window.astype("<f4").tobytes()).decode() for window in values]
    for sent in (values.tolist(), texts, orjson.loads(orjson.dumps(values.tolist()))):
        np.testing.assert_array_equal(windows_of(sent, 3, SETTINGS), values)


def test_one_context_is_a_batch_of_one() -> None:
    rows = [[1, 2, 3], [4.5, 5, 6]]
    for sent in (rows, np.array(rows), b64encode(np.array(rows, "<f4").tobytes()).decode()):
        np.testing.assert_array_equal(windows_of(sent, 3, SETTINGS), np.array([rows], np.float32))


def test_contexts_of_one_request_may_differ_in_length() -> None:
    found = windows_of([[[1, 2, 3]], [[1, 2, 3], [4, 5, 6]]], 3, SETTINGS)
    assert [window.shape for window in found] == [(1, 3), (2, 3)]


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ([], "empty"),
        ([[]], "wrong_dimension"),
        ([[[1, 2, 3]], []], "empty"),
        ("", "empty"),
        ([""], "empty"),
        (np.zeros((0, 3)), "empty"),
        (np.zeros((1, 0, 3)), "empty"),
        ([[1, 2]], "wrong_dimension"),
        (np.zeros((1, 4)), "wrong_dimension"),
        ([[1, 2, 3], [1, 2]], "wrong_dimension"),
        ([[[1, 2, 3]], [[1, 2]]], "wrong_dimension"),
        (b64encode(bytes(16)).decode(), "wrong_dimension"),
        ([1, 2, 3], "wrong_type"),
        ([[1, 2, "3"]], "wrong_type"),
        ([[1, 2, True]], "wrong_type"),
        ([[1, 2, None]], "wrong_type"),
        ([[1, 2, [3]]], "wrong_type"),
        ([[[[1, 2, 3]]]], "wrong_type"),
        ([[[1, 2, 3]], "AAAA"], "wrong_type"),
        (["AAAA", [[1, 2, 3]]], "invalid_base64"),
        ("no base64!", "invalid_base64"),
        (b64encode(bytes(11)).decode(), "invalid_base64"),
        ({"a": 1}, "wrong_type"),
        (None, "wrong_type"),
        (5, "wrong_type"),
        (np.zeros(3), "wrong_shape"),
        (np.zeros((1, 1, 1, 3)), "wrong_shape"),
        (np.array([[1, 2, np.nan]]), "not_finite"),
        (np.array([[1, 2, np.inf]], np.float32), "not_finite"),
        ([[1, 2, 1e300]], "not_finite"),
        (b64encode(np.array([1, 2, np.nan], "<f4").tobytes()).decode(), "not_finite"),
        ([[1, 2, 3]] * 7, "too_many_vectors"),
        ([[[1, 2, 3]]] * 5, "too_many_vectors"),
        (np.zeros((5, 1, 3)), "too_many_vectors"),
        (b64encode(bytes(12 * 7)).decode(), "too_many_vectors"),
    ],
)
def test_what_cannot_be_meant_is_refused(values: Any, code: str) -> None:
    assert refused(values) == (422, code)


GOOD = npy(np.zeros((2, 3), np.float32))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x93NUMPY",
        GOOD[:-1],
        GOOD + b"\0",
        GOOD.replace(b"(2, 3)", b"(9, 3)"),
        GOOD.replace(b"(2, 3)", b"(-2,3)"),
        GOOD.replace(b"'<f4'", b"'|O4'"),
        GOOD.replace(b"'<f4'", b"'<i4'"),
        GOOD.replace(b"'descr'", b"'xescr'"),
        GOOD.replace(b"{", b"["),
        b"\x93NUMPY\x01\x00\xff\xff" + bytes(70000),
        b"\x93NUMPY\x09\x00" + GOOD[8:],
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100),
        npy(np.zeros((2, 3), np.complex64)),
        npy(np.zeros((2, 3), np.int64)),
        npy(np.zeros((2, 3), "U4")),
        npy(np.zeros(2, [("a", "f4")])),
    ],
)
def test_a_damaged_or_foreign_npy_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal) as found:
        read_npy(body)
    assert (found.value.status, found.value.code) == (400, "invalid_npy")


def test_a_header_that_claims_terabytes_allocates_nothing() -> None:
    body = GOOD.replace(b"(2, 3), }" + b" " * 12, b"(99999999999, 3), }  ")
    assert len(body) == len(GOOD)
    assert body != GOOD
    with pytest.raises(Refusal, match="are not float32 of shape"):
        read_npy(body)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b'{"a": NaN}', b"[" * 10**6, b"\xff", b'{"a":1}x'])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal) as found:
        read_json(body)
    assert (found.value.status, found.value.code) == (400, "invalid_json")


def test_a_single_vector() -> None:
    np.testing.assert_array_equal(vector_of([1, 2, 3], 3, "query"), np.array([1, 2, 3], np.float32))
    text = b64encode(np.array([1, 2, 3], "<f4").tobytes()).decode()
    np.testing.assert_array_equal(vector_of(text, 3, "query"), np.array([1, 2, 3], np.float32))
    for wrong in ([1, 2], "AAAA", 5, [[1, 2, 3]], b64encode(bytes(24)).decode()):
        with pytest.raises(Refusal) as found:
            vector_of(wrong, 3, "query")
        assert (found.value.status, found.value.param) == (422, "query")


def test_answers_are_read_back_by_others() -> None:
    values = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    np.testing.assert_array_equal(np.load(io.BytesIO(npy_bytes(values)), allow_pickle=False), values)
    output = orjson.loads(embeddings(values, "m", "float", usage={"vectors": 9}))
    np.testing.assert_array_equal(np.array([d["embedding"] for d in output["data"]], np.float32), values)
    assert [d["index"] for d in output["data"]] == [0, 1, 2]
    assert (output["object"], output["model"], output["usage"]) == ("list", "m", {"vectors": 9})
    coded = orjson.loads(embeddings(values, "m", "base64"))["data"][1]["embedding"]
    assert coded == b64encode(values[1].tobytes()).decode()
