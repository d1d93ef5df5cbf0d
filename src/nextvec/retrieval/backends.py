"""Where the vectors are searched: in memory, in a file, in a database, in a cluster; the same answers. Of the
engines faiss stands here itself.

A back end is written as its name, `faiss`, where needed with an address behind it,
`pgvector:postgresql://localhost/passages`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from nextvec.corpus.layout import FloatArray, IntArray
from nextvec.corpus.store import Store
from nextvec.disk import atomic_path, locked, read_json, sha256_file, write_json
from nextvec.errors import RetrievalError, require_package
from nextvec.retrieval import engine as exact
from nextvec.retrieval import milvus, pgvector
from nextvec.retrieval.engine import BACKENDS, Backend, EngineIndex, HeldRows, IndexSource, backend
from nextvec.retrieval.index import Index

REGISTERED = (exact, milvus, pgvector)
"""The modules whose back ends are known because they are imported here, as are those below; engines are
imported when used."""
DATABASES = {"milvus": milvus, "pgvector": pgvector, "pgvector-hnsw": pgvector}


def find_backend(spec: str) -> tuple[Backend, str | None]:
    """A back end and its address, from `name` or `name:address`.

    Raises:
        RetrievalError: an unknown name; an address missing, or one too many. The address is not repeated: it
            may hold a password.
    """
    name, colon, address = spec.partition(":")
    if name not in BACKENDS:
        raise RetrievalError(f"no index '{name}'", remedy=f"choose one of: {', '.join(sorted(BACKENDS))}")
    found = BACKENDS[name]
    if found.address == "needed" and not address:
        remedy = f"write {name}:ADDRESS"
        raise RetrievalError("its address is missing", where=f"index '{name}'", remedy=remedy)
    if colon and (found.address == "none" or not address):
        remedy = f"write {name} without the colon"
        raise RetrievalError("takes no such address", where=f"index '{name}'", remedy=remedy)
    return found, address or None


def open_index(spec: str, store: Store, documents: Sequence[int] | None = None) -> Index:
    """The index of the chunks of a store that have a text.

    What the back end does not hold yet is loaded, which can take minutes; what it holds under the store's
    fingerprint is used as it is.

    Args:
        spec: as `find_backend` reads it.
        documents: indices into `store.documents`: only chunks of these; None is of all originals.
    Raises:
        RetrievalError: as `find_backend`; no chunk with a text; the engine cannot be reached or refuses.
        MissingDependencyError: its package is not installed.
    """
    found, address = find_backend(spec)
    return found.open(IndexSource.of(store, documents), address)


def held_rows(spec: str) -> list[HeldRows]:
    """What indexes made in a database or a cluster, `pgvector:ADDRESS` or `milvus:ADDRESS`.

    Raises:
        RetrievalError: as `find_backend`; a back end that keeps nothing there; no answer.
        MissingDependencyError: its package is not installed.
    """
    engine, address = _elsewhere(spec)
    found: list[HeldRows] = engine.held_rows(address)
    return found


def drop_rows(spec: str, name: str) -> None:
    """Drop one of them. Raises as `held_rows`, and for a name that is not there or not of an index."""
    engine, address = _elsewhere(spec)
    engine.drop_rows(address, name)


def _elsewhere(spec: str) -> tuple[ModuleType, str]:
    """The module of a back end that keeps its rows outside of this process, and the address."""
    _, address = find_backend(spec)
    name = spec.partition(":")[0]
    if name not in DATABASES or address is None:
        remedy = "give pgvector:... or milvus:..."
        raise RetrievalError("keeps nothing in a database", where=f"index '{name}'", remedy=remedy)
    return DATABASES[name], address


# faiss, in this process: compares with everything, or walks a graph (Malkov and Yashunin, 2016).

LINKS, BUILD_WIDTH, SEARCH_WIDTH = 16, 64, 256
"""Of the graph: links a row, and how many rows are kept in sight while it is built and searched."""
NODE_BYTES = 1024
"""A file is refused where it takes more than so many bytes a row beside the vectors."""


class FaissIndex(EngineIndex):
    """Asks an index of faiss that holds the rows of a source, in their order."""

    def __init__(self, source: IndexSource, name: str, exact: bool, index: Any) -> None:
        super().__init__(source)
        self.name, self.exact, self._index = name, exact, index

    def _ask(self, queries: FloatArray, n: int) -> tuple[FloatArray, IntArray]:
        scores, places = self._index.search(np.ascontiguousarray(queries), n)
        return scores, places


@backend("faiss")
def _flat(source: IndexSource, address: str | None) -> FaissIndex:
    """A flat index in memory: exact."""
    require_package("index 'faiss'", "faiss", "faiss")
    import faiss

    index = faiss.IndexFlatIP(source.vectors.shape[1])
    _fill(index, source)
    return FaissIndex(source, "faiss", True, index)


@backend("faiss-hnsw", "optional")
def _graph(source: IndexSource, address: str | None) -> FaissIndex:
    """A graph in memory, kept in a folder if one is given: fast, finds nearly all."""
    require_package("index 'faiss-hnsw'", "faiss", "faiss")
    index = _built(source) if address is None else _kept(source, Path(address))
    index.hnsw.efSearch = SEARCH_WIDTH
    return FaissIndex(source, "faiss-hnsw", False, index)


def _built(source: IndexSource) -> Any:
    import faiss

    index = faiss.IndexHNSWFlat(source.vectors.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = BUILD_WIDTH
    _fill(index, source)
    return index


def _fill(index: Any, source: IndexSource) -> None:
    for _, units in source.blocks():
        index.add(units)


def _kept(source: IndexSource, folder: Path) -> Any:
    """The graph from a file of this folder, which is written where it is not there.

    Reading a file of faiss trusts it. So its digest, written beside it, is compared before: a damaged file is
    refused. Somebody who can write both can still mislead: keep the folder your own.
    """
    import faiss

    file = folder / f"{source.identity}.faiss"
    note = file.with_suffix(".json")
    if note.exists():
        _check_file(file, note, source)
        return faiss.read_index(str(file))
    try:
        with locked(folder):
            index = _built(source)
            with atomic_path(file) as temporary:
                faiss.write_index(index, str(temporary))
            write_json(note, {"rows": len(source.rows), "sha256": sha256_file(file)}, sealed=True)
    except (OSError, RuntimeError) as e:  # faiss has an error of its own for a full disk
        remedy = "name a folder that can be written to"
        raise RetrievalError(f"cannot be written ({e})", where=file, remedy=remedy) from None
    return index


def _check_file(file: Path, note: Path, source: IndexSource) -> None:
    """Raises RetrievalError where the file is not what was written."""
    remedy = f"delete {note}, and it is built again"
    known = read_json(note, RetrievalError, remedy=remedy)
    most = len(source.rows) * (4 * source.vectors.shape[1] + NODE_BYTES) + 2**20
    if not file.is_file() or file.stat().st_size > most:
        raise RetrievalError("is missing or too large", where=file, remedy=remedy)
    if not isinstance(known, dict) or known.get("sha256") != sha256_file(file):
        raise RetrievalError("is not the file that was written (sha256 differs)", where=file, remedy=remedy)
