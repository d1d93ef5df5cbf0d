"""Arrays in files, .npy and .npz: headers, memory maps with bounds and without pickle, and reproducible
writing.

numpy's own loader would unpickle objects, trust a header for the size of what follows, and know no bounds."""

from __future__ import annotations

import contextlib
import math
import mmap
import shutil
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nextvec.errors import VectorError

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip can hold: same arrays, same bytes


MAX_HEADER_BYTES = 10_000


def read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and type of the .npy that begins here; the stream then stands at its data.

    Raises:
        ValueError: not an .npy of version 1 or 2, or a header of over 10,000 bytes or that is no header.
    """
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its version is {version}")
    formats = np.lib.format
    read = formats.read_array_header_1_0 if version == (1, 0) else formats.read_array_header_2_0
    try:
        shape, fortran, dtype = read(stream, max_header_size=MAX_HEADER_BYTES)
    except (tokenize.TokenError, SyntaxError, RecursionError, MemoryError, TypeError, OverflowError) as e:
        raise ValueError(f"its header cannot be read ({type(e).__name__})") from None  # of Python's parser
    if min(shape, default=0) < 0:
        raise ValueError(f"its shape is {list(shape)}")
    return shape, fortran, dtype


def write_header(stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """The header of an .npy in C order."""
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, described)


def map_npy(path: Path, *, whole: bool = False) -> NDArray[Any]:
    """Memory-map an .npy, read-only, as a plain array: memmap's own indexing costs more than a gather itself.

    Raises:
        OSError. ValueError: not an .npy of numbers, one that is truncated or, as a `whole` file, longer than
            its header says.
    """
    with path.open("rb") as f:
        shape, fortran, dtype = read_header(f)
        offset, size = f.tell(), f.seek(0, 2)
        held = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    if dtype.hasobject:
        raise ValueError("it holds pickled Python objects, which are never read")
    expected = math.prod(shape) * dtype.itemsize
    if size - offset < expected or (whole and size - offset > expected):
        raise ValueError(f"its header has {dtype} {list(shape)}, {size - offset} bytes follow")
    if not expected:
        return np.empty(shape, dtype)
    # np.memmap takes ten times as long.
    flat: NDArray[Any] = np.frombuffer(held, dtype, math.prod(shape), offset)
    return flat.reshape(shape, order="F" if fortran else "C")


@contextlib.contextmanager
def open_arrays(path: Path, names: Sequence[str], max_bytes: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Those of the named arrays that the .npz holds, unpacked to nameless temporary files and mapped.

    Raises:
        VectorError: not an .npz, or an array that is pickled, damaged or larger than `max_bytes`.
    """
    with contextlib.ExitStack() as stack:
        arrays: dict[str, NDArray[Any]] = {}
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
            members = {m.filename.removesuffix(".npy"): m for m in archive.infolist()}
            for name in names:
                if name in members:
                    arrays[name] = _unpack(archive, members[name], f"{path}: {name}", stack, max_bytes)
        except FileNotFoundError:
            raise VectorError("not found", where=path, remedy="check the path") from None
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as e:
            raise VectorError(f"is not a readable .npz ({e})", where=path, remedy="save it again") from None
        yield arrays


def _unpack(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str, stack: contextlib.ExitStack, max_bytes: int
) -> NDArray[Any]:
    """One member as a memory map. Its header must account for every byte before any is unpacked."""

    def refuse(message: str, remedy: str = "save it again") -> VectorError:
        return VectorError(message, where=where, remedy=remedy)

    if member.file_size > max_bytes:
        raise refuse(f"unpacks to {member.file_size} bytes, over {max_bytes}", "split it")
    with archive.open(member) as packed:
        try:
            shape, fortran, dtype = read_header(packed)
        except ValueError as e:
            raise refuse(f"is not an array ({e})") from None
        if dtype.hasobject:
            remedy = "save it as text: array.astype(str)"
            raise refuse("holds pickled Python objects, which are never read", remedy)
        size = math.prod(shape) * dtype.itemsize
        if size == 0 or fortran:
            raise refuse("is empty or in Fortran order")
        found = member.file_size - packed.tell()
        if size != found:
            raise refuse(f"header has {dtype} {list(shape)}, {found} bytes follow")
        file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        shutil.copyfileobj(packed, file, 2**20)
    if file.tell() != size:
        raise refuse("is truncated")
    file.flush()
    mapped: NDArray[Any] = np.memmap(file, dtype, "r", 0, shape).view(np.ndarray)
    return mapped


@contextlib.contextmanager
def new_member(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Iterator[IO[bytes]]:
    """Open the array `name` of an .npz for writing: its header is written, the bytes are the caller's."""
    info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
    info.compress_type = archive.compression
    with archive.open(info, "w", force_zip64=True) as f:
        write_header(f, shape, dtype)
        yield f
