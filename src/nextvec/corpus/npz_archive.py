"""The inside of an .npz: bounded reading into memory maps, without pickle; streamed, reproducible writing."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nextvec.errors import VectorError

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip can hold: same arrays, same bytes


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
            raise VectorError(f"is not a readable .npz ({e})", where=path, remedy="save it anew") from None
        yield arrays


def _unpack(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str, stack: contextlib.ExitStack, max_bytes: int
) -> NDArray[Any]:
    """One member as a memory map. Its header must account for every byte before any is unpacked."""
    if member.file_size > max_bytes:
        raise VectorError(
            f"unpacks to {member.file_size} bytes, over {max_bytes}", where=where, remedy="split it"
        )
    with archive.open(member) as packed:
        shape, fortran, dtype = _read_header(packed, where)
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if size == 0 or fortran:
            raise VectorError("is empty or in Fortran order", where=where, remedy="save it anew")
        if packed.tell() + size != member.file_size:
            found = member.file_size - packed.tell()
            raise VectorError(
                f"header says {dtype} {list(shape)}, {found} bytes follow", where=where, remedy="save it anew"
            )
        file = stack.enter_context(_temporary_file())
        shutil.copyfileobj(packed, file, 2**20)
    if file.tell() != size:
        raise VectorError("is truncated", where=where, remedy="save it anew")
    file.flush()
    mapped: NDArray[Any] = np.memmap(file, dtype, "r", 0, shape).view(np.ndarray)
    return mapped


def _read_header(packed: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(packed)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(packed)
        else:
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(packed)
    except ValueError as e:
        raise VectorError(f"is not an array ({e})", where=where, remedy="save it anew") from None
    if dtype.hasobject:
        raise VectorError(
            "holds pickled Python objects, which are never read",
            where=where,
            remedy="save it as text: array.astype(str)",
        )
    return shape, fortran, dtype


def _temporary_file() -> IO[bytes]:
    return tempfile.TemporaryFile()


@contextlib.contextmanager
def new_member(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Iterator[IO[bytes]]:
    """Open the array `name` of an .npz for writing: its header is written, the bytes are the caller's."""
    info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
    info.compress_type = archive.compression
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with archive.open(info, "w", force_zip64=True) as f:
        np.lib.format.write_array_header_1_0(f, description)
        yield f
