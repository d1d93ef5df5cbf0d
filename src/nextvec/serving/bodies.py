"""Vectors in and out of bodies: JSON, base64, npy. Shapes: N windows, T time (chunks), D embedding.

Nothing is unpickled and nothing is allocated by what a header claims: a body that was read is all there is.
"""

from __future__ import annotations

import binascii
import io
from base64 import b64decode
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import orjson

from nextvec.client.wire import packed
from nextvec.corpus.arrays import read_header, write_header
from nextvec.data.windows import FloatArray
from nextvec.serving.errors import ONE_OBJECT, Refusal, invalid
from nextvec.serving.settings import Settings

MAX_NPY_HEADER = 4096
FLOATS, NUMBERS = ("f2", "f4", "f8"), frozenset({int, float})
SHAPES = "send [T, D], or a list of such"
LITTLE = np.dtype("<f4")

ContextArrays = FloatArray | list[FloatArray]
"""Contexts [N, T, D]; N of [T, D] where they differ in length."""


def read_json(body: bytes) -> dict[str, Any]:
    """The object in a body. Raises Refusal 400."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        message = f"the body is not JSON: {error}"
        raise Refusal(400, message, code="invalid_json", remedy=ONE_OBJECT) from None
    if not isinstance(found, dict):
        raise Refusal(400, "the body is not a JSON object", code="invalid_json", remedy='send {"input": ...}')
    return found


def read_npy(body: bytes) -> np.ndarray[Any, Any]:
    """The floating point array of an .npy file, read-only. Raises Refusal 400."""
    try:
        shape, fortran, dtype, start = _npy_header(body[: _header_end(body)])
    except ValueError as error:
        raise _bad_npy(str(error)) from None
    if len(body) - start != prod(shape) * dtype.itemsize:
        raise _bad_npy(f"{len(body) - start} bytes of data are not {dtype} of shape {list(shape)}")
    values = np.frombuffer(body, dtype, offset=start)
    return values.reshape(shape, order="F" if fortran else "C")


def windows_of(values: Any, dimension: int, settings: Settings, param: str = "input") -> ContextArrays:
    """Checked contexts of an array [T, D] or [N, T, D], or of JSON: lists of numbers of these shapes, base64
    of one context, a list of base64 (one a context). Contexts of one request may differ in length.

    Raises Refusal 422 naming what is wrong.
    """
    if not isinstance(values, np.ndarray):
        values = _of_json(values, dimension, settings, param)
        if isinstance(values, list):
            return [_finite(window, param) for window in values]
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3:
        raise invalid(f"vectors of shape {list(values.shape)}", "wrong_shape", param, SHAPES)
    N, T, D = values.shape
    if N == 0 or T == 0:
        raise _empty(param)
    if dimension != D:
        raise _wrong_dimension(D, dimension, param)
    _check_counts(N, T, settings, param)
    return _finite(values, param)


def vector_of(value: Any, dimension: int, param: str) -> FloatArray:
    """Checked vector [D] of JSON: numbers, or base64. Raises Refusal 422."""
    if isinstance(value, str):
        rows = _decoded(value, dimension, param)
    else:
        _check_row(value, dimension, param)
        rows = np.array([value], dtype=np.float64)
    if len(rows) != 1:
        raise invalid(f"{len(rows)} vectors where one is needed", "wrong_shape", param, "send one")
    vector: FloatArray = _finite(rows, param)[0]
    return vector


def npy_bytes(values: FloatArray) -> bytes:
    return _npy_prefix(values.shape) + values.astype(LITTLE, copy=False).tobytes()


def embeddings(values: FloatArray, model: str, encoding: str, **more: Any) -> bytes:
    """Vectors [N, D] as OpenAI's embeddings come: `{"object": "list", "data": [...], ...}`.

    Args:
        encoding: float (lists of numbers) or base64 (of little-endian float32).
        more: further fields.
    """
    rows = [packed(row) for row in values] if encoding == "base64" else values
    data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
    answer = {"object": "list", "model": model, **more, "data": data}
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _of_json(
    value: Any, dimension: int, settings: Settings, param: str
) -> np.ndarray[Any, Any] | list[np.ndarray[Any, Any]]:
    """[T, D] or [N, T, D] of lists or base64; a list of [T, D] where their lengths differ."""
    if isinstance(value, str):
        return _decoded(value, dimension, param)
    if not isinstance(value, list):
        raise invalid("it is neither a list nor base64", "wrong_type", param, SHAPES)
    if not value:
        raise _empty(param)
    if isinstance(value[0], str):
        windows = [_decoded(text, dimension, param) for text in value]
    elif isinstance(value[0], list) and value[0] and isinstance(value[0][0], list):
        windows = [_rows(rows, dimension, param) for rows in value]
    else:
        return _rows(value, dimension, param)
    lengths = {len(window) for window in windows}
    _check_counts(len(windows), max(lengths), settings, param)
    if 0 in lengths:
        raise _empty(param)
    return np.stack(windows) if len(lengths) == 1 else windows


def _rows(rows: Any, dimension: int, param: str) -> np.ndarray[Any, Any]:
    """[T, D] of a list of lists of numbers."""
    if not isinstance(rows, list):
        raise invalid("contexts and other things are mixed", "wrong_type", param, SHAPES)
    for row in rows:
        _check_row(row, dimension, param)
    return np.array(rows, dtype=np.float64).reshape(-1, dimension)


def _check_row(row: Any, dimension: int, param: str) -> None:
    if not isinstance(row, list):
        raise invalid("a vector is not a list of numbers", "wrong_type", param, SHAPES)
    if not set(map(type, row)) <= NUMBERS:
        raise invalid("a vector holds something not a number", "wrong_type", param, "send numbers only")
    if len(row) != dimension:
        raise _wrong_dimension(len(row), dimension, param)


def _decoded(text: Any, dimension: int, param: str) -> np.ndarray[Any, Any]:
    """[T, D] of base64 of little-endian float32."""
    try:
        data = b64decode(text, validate=True) if isinstance(text, str) else None
    except (binascii.Error, ValueError):
        data = None
    if data is None or len(data) % 4:
        raise invalid("it is not base64 of float32", "invalid_base64", param, "encode little-endian float32")
    if len(data) % (4 * dimension):
        raise _wrong_dimension(len(data) // 4, dimension, param)
    return np.frombuffer(data, LITTLE).reshape(-1, dimension)


def _finite(values: np.ndarray[Any, Any], param: str) -> FloatArray:
    found = values
    if values.dtype != np.float32 or not (values.flags.c_contiguous and values.flags.aligned):
        with np.errstate(over="ignore"):
            found = np.require(values, np.float32, ("C", "A"))
    if not np.isfinite(found).all():
        remedy = "leave it out, or encode it again"
        raise invalid("a vector holds NaN or infinity", "not_finite", param, remedy)
    return found


def _check_counts(N: int, T: int, settings: Settings, param: str) -> None:
    if settings.max_windows < N or settings.max_vectors < T:
        message = f"{N} contexts of {T} vectors, more than {settings.max_windows} of {settings.max_vectors}"
        remedy = "send fewer a request; models read the last vectors of a context only"
        raise invalid(message, "too_many_vectors", param, remedy)


def _header_end(body: bytes) -> int:
    """Where the data of an .npy file begins. Raises ValueError."""
    if body[:6] != b"\x93NUMPY" or len(body) < 12:
        raise ValueError("it does not begin like one")
    start = 10 if body[6] == 1 else 12
    end = start + int.from_bytes(body[8:start], "little")
    if end > MAX_NPY_HEADER or end > len(body):
        raise ValueError("its header is too long")
    return end


@lru_cache(maxsize=256)
def _npy_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, order, type, where the data begins. A client sends the same shapes again and again."""
    stream = io.BytesIO(header)
    shape, fortran, dtype = read_header(stream)
    if dtype.str[1:] not in FLOATS:
        raise ValueError(f"it holds {dtype}, not floating point numbers of 2, 4 or 8 bytes")
    return shape, fortran, dtype, len(header)


@lru_cache(maxsize=256)
def _npy_prefix(shape: tuple[int, ...]) -> bytes:
    """What stands before the data in an .npy file of float32."""
    stream = io.BytesIO()
    write_header(stream, shape, LITTLE)
    return stream.getvalue()


def _bad_npy(why: str) -> Refusal:
    message = f"the body is not an .npy file of vectors: {' '.join(why.split())[:200]}"
    remedy = "write it with numpy.save(file, vectors, allow_pickle=False)"
    return Refusal(400, message, code="invalid_npy", remedy=remedy)


def _empty(param: str) -> Refusal:
    return invalid("there is no vector in it", "empty", param, "send one vector at least")


def _wrong_dimension(found: int, dimension: int, param: str) -> Refusal:
    message = f"{found} numbers are not vectors of {dimension}"
    remedy = "encode with the encoder that GET /v1/models/{name} describes"
    return invalid(message, "wrong_dimension", param, remedy)
